"""What people see at a terminal: progress, help, completion, and how soon the version is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunopt.commands import output

ROOT = Path(__file__).parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_texts_that_count_tell_the_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("cnn") as tell:
        tell("reading")
        for done in range(1, 5):
            clock[0] += 20.0
            tell(f"{done} of 4 groups measured")
    assert capsys.readouterr().err.splitlines() == [
        "prunopt: cnn: 1 of 4 groups measured, 20 s",
        "prunopt: cnn: 2 of 4 groups measured, 40 s, about 40 s left",
        "prunopt: cnn: 3 of 4 groups measured, 1 min 0 s, about 20 s left",
        "prunopt: cnn: 4 of 4 groups measured, 1 min 20 s, about 0 s left",
    ]


def test_calls_count_where_the_total_is_known(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for total in (3, 10):
        with output.progress("work", total=total) as tell:
            for text in ("one", "two", "three"):
                tell(text)
                clock[0] += 20.0
    assert capsys.readouterr().err.splitlines() == [
        "prunopt: work: 2 of 3 (two), 20 s",  # three stages are not alike: no time is told
        "prunopt: work: 3 of 3 (three), 40 s",
        "prunopt: work: 2 of 10 (two), 20 s, about 2 min 40 s left",
        "prunopt: work: 3 of 10 (three), 40 s, about 2 min 20 s left",
    ]


def test_the_version_loads_no_command() -> None:
    heavy = "[m for m in ('typer', 'numpy', 'rich') if m in sys.modules]"
    done = python(
        f"import sys; sys.argv = ['prunopt', '--version']; from prunopt.__main__ import main; main(); print({heavy})"
    )
    assert done.stdout.splitlines()[0].startswith("prunopt ")
    assert done.stdout.splitlines()[1] == "[]", done.stdout


def test_commands_and_options_are_completed() -> None:
    code = "import sys; sys.argv = ['prunopt']; from prunopt.__main__ import main; main()"
    for typed, wanted in (("prunopt fo", "forest"), ("prunopt forest --bud", "--budget")):
        asked = {"_PRUNOPT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        assert wanted in python(code, **asked).stdout.split()


def test_help_in_a_pipe_is_plain_text() -> None:
    done = python("import sys; sys.argv = ['prunopt', 'solve', '--help']; from prunopt.__main__ import main; main()")
    assert "Example: prunopt solve model.mps" in done.stdout
    assert not set(done.stdout) & set("\x1b╭│╰")


@pytest.mark.skipif(os.name != "posix", reason="opens a pseudo-terminal")
def test_help_at_a_terminal_has_panels() -> None:
    import pty

    leader, follower = pty.openpty()
    code = "import sys; sys.argv = ['prunopt', 'solve', '--help']; from prunopt.__main__ import main; main()"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm-256color"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, env=variables) as process:
        os.close(follower)
        seen = b""
        try:
            while part := os.read(leader, 65536):
                seen += part
        except OSError:  # Linux: the other end was closed
            pass
        assert process.wait() == 0
    os.close(leader)
    text = seen.decode()
    assert "╭" in text
    assert "--seconds" in text
