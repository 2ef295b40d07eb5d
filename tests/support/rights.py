"""Programs that may not write into what is read-only, whoever runs the tests."""

from __future__ import annotations

import os
import shutil

BOUND = "--bounding-set=-dac_override,-dac_read_search"  # what lets root pass by the bits of files


def obedient() -> list[str] | None:
    """Return the words in front of a command that keep it to the rights of files; None where nothing does.

    Root may write anywhere; under Linux ``setpriv`` takes that from a root that is one in all else.
    """
    if not hasattr(os, "geteuid") or os.geteuid():
        return []
    program = shutil.which("setpriv")
    return None if program is None else [program, BOUND]
