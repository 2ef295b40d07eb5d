"""``python -m prunopt`` and the ``prunopt`` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit status."""
    if sys.stderr is None:  # closed from the start, and some libraries write there without looking
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.argv[1:] == ["--version"]:  # without loading the commands
        from prunopt import __version__

        print(f"prunopt {__version__}")
        return
    try:
        from prunopt.cli import app
        from prunopt.commands.output import flush, turn_stdout

        try:
            app()
        except SystemExit as left:
            if int(os.environ.get("WORLD_SIZE") or 1) > 1 and "torch.distributed" in sys.modules:
                # of torchrun's processes: a thread of gloo's that is still there when the interpreter ends aborts it
                flush()
                os._exit(left.code if isinstance(left.code, int) else int(left.code is not None))
            raise
        finally:
            if "--json" in sys.argv and sys.stdout is not None:
                flush()
                turn_stdout()
    except KeyboardInterrupt:  # before a command has begun; commands report their own
        print("prunopt: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except (
        ImportError,
        MemoryError,
        OSError,
        SystemError,
    ) as error:  # a library that does not fit under a limit on memory, or is broken
        print(f"prunopt: it cannot be loaded: {' '.join(str(error).split())[-300:]}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
