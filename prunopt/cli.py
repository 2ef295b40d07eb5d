"""The command line: ``prunopt COMMAND``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from prunopt.commands.bench import bench
from prunopt.commands.cnn import cnn
from prunopt.commands.evaluate import evaluate
from prunopt.commands.forest import forest
from prunopt.commands.heads import heads
from prunopt.commands.lottery import lottery
from prunopt.commands.predict import predict
from prunopt.commands.prune import prune, verify
from prunopt.commands.report import report
from prunopt.commands.search import search
from prunopt.commands.solve import solve, solvers
from prunopt.commands.warm_up import warm_up
from prunopt.core.memory import only_estimate

# Panels and colors are for people: what goes to a file or a pipe is plain text.
RICH: Literal["markdown"] | None = "markdown" if sys.stdout is not None and sys.stdout.isatty() else None

app = typer.Typer(
    name="prunopt",
    help="Make trained models cheaper to run (forests, transformers, CNNs), and see how close to the best they are.",
    epilog="Exit status: 0 done, 1 a problem in the input (one line says which), 2 usage, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=RICH,
    pretty_exceptions_enable=False,
)

EXAMPLES: list[tuple[Callable[..., None], str]] = [
    (forest, "prunopt forest --data patients.csv --target diagnosis --costs costs.json --budget 20 --out out"),
    (predict, "prunopt predict out --data new-patients.csv --out predictions.csv"),
    (prune, "prunopt prune my-model --calibration text.txt --sparsity 0.2 --out smaller"),
    (cnn, "prunopt cnn mobilenetv2 --budget latency_ms=0.75x --images pictures --runtime onnxruntime --out smaller"),
    (evaluate, "prunopt evaluate smaller --text other.txt --speed"),
    (heads, "prunopt heads my-model --data text.txt --keep 0.6 --out fewer-heads"),
    (verify, "prunopt verify smaller --original my-model"),
    (lottery, "prunopt lottery --epsilon 0.01 --out ticket"),
    (search, "prunopt search my-model --calibration text.txt --sparsity 0.6 --trials 200 --out found"),
    (report, "prunopt report smaller"),
    (solve, "prunopt solve model.mps --seconds 60 --json"),
    (solvers, "prunopt solvers"),
    (bench, "prunopt bench forest_speed magic"),
    (warm_up, "prunopt warm-up"),
]
for _function, _example in EXAMPLES:
    app.command(epilog=f"Example: {_example}")(_function)


def _version(wanted: bool) -> None:
    if wanted:
        from prunopt import __version__

        print(f"prunopt {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the memory that the command would need, and exit.")
    ] = False,
) -> None:
    """Make trained models cheaper to run (forests, transformers, CNNs), and see how close to the best they are."""
    only_estimate(estimate)


def command_names() -> list[str]:
    """Return the names of all commands."""
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    return sorted(commands)
