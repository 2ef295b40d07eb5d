"""``--json`` of every command, in a process of its own: the whole of standard output is one document."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import prunopt as po
from prunopt.cli import app, command_names
from prunopt.commands.output import SCHEMA, guarded, print_json
from prunopt.forms import Closure

ROOT = Path(__file__).parents[2]
NETWORK = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))
"""


def process(arguments: list[str], code: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    main = f"import sys; sys.argv = {['prunopt', *arguments]!r}\n{code}\nfrom prunopt.__main__ import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", main]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


def tiny_model(folder: Path) -> list[str]:
    """Write a transformer and a text; return the options that keep the calibration small."""
    from prunopt.networks.transformers.tiny_models import write_tiny_model

    write_tiny_model(folder / "model")
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog; 17 foxes slept.\n" * 40)
    return ["--calibration", str(folder / "text.txt"), "--windows", "4", "--length", "16"]


def forest(folder: Path) -> list[str]:
    return ["--trees", "3", "--splits", "0"]


def report(folder: Path) -> list[str]:
    assert process(["forest", *forest(folder), "--out", str(folder / "run")]).returncode == 0
    return [str(folder / "run")]


def solve(folder: Path) -> list[str]:
    po.save_form(Closure.of([3, 3], requirements=[[0], [0]], cost=[5]), folder / "closure.npz")
    return [str(folder / "closure.npz")]


def bench(folder: Path) -> list[str]:
    (folder / "benchmarks").mkdir()
    for name in ("__init__", "machine"):
        (folder / "benchmarks" / f"{name}.py").touch()
    table = (
        '"""Talks: ``python -m benchmarks.talk``."""\nif __name__ == "__main__":\n    print("one line of a table")\n'
    )
    (folder / "benchmarks" / "talk.py").write_text(table)
    return ["talk"]


def predict(folder: Path) -> list[str]:
    rows = "\n".join(f"{k % 7},{k % 5},{'ill' if k % 7 > 3 else 'well'}" for k in range(40))
    (folder / "rows.csv").write_text(f"age,blood,label\n{rows}\n", "utf-8")
    words = ["--data", str(folder / "rows.csv"), "--target", "label", "--budget", "1", "--out", str(folder / "model")]
    assert process(["forest", *words]).returncode == 0
    return [str(folder / "model"), "--data", str(folder / "rows.csv")]


def prune(folder: Path) -> list[str]:
    return [str(folder / "model"), *tiny_model(folder), "--out", str(folder / "out")]


def evaluate(folder: Path) -> list[str]:
    tiny_model(folder)
    return [str(folder / "model"), "--text", str(folder / "text.txt"), "--windows", "2", "--length", "16"]


def heads(folder: Path) -> list[str]:
    tiny_model(folder)
    words = ["--data", str(folder / "text.txt"), "--keep", "0.5", "--method", "greedy", "--no-curve"]
    return [str(folder / "model"), *words, "--examples", "4", "--length", "16", "--out", str(folder / "out")]


def search(folder: Path) -> list[str]:
    words = [*tiny_model(folder), "--sparsity", "0.5", "--trials", "2", "--methods", "uniform"]
    return [str(folder / "model"), *words, "--out", str(folder / "out")]


def cnn(folder: Path) -> list[str]:
    (folder / "nets.py").write_text(NETWORK)
    return [f"{folder / 'nets.py'}:build", "--budget", "macs=0.7", "--size", "16"]


def lottery(folder: Path) -> list[str]:
    import torch
    from safetensors.torch import save_file

    save_file({"0.weight": torch.tensor([[0.5, -0.25]])}, folder / "target.safetensors")
    return ["--target", str(folder / "target.safetensors"), "--epsilon", "0.1"]


CASES: dict[str, Callable[[Path], list[str]]] = {
    "forest": forest, "predict": predict, "report": report, "verify": report, "solve": solve,
    "solvers": lambda _: [], "bench": bench, "prune": prune,
    "warm-up": lambda _: [], "evaluate": evaluate, "heads": heads, "search": search, "cnn": cnn, "lottery": lottery,
}  # fmt: skip
NEEDS = {name: "transformers" for name in ("prune", "evaluate", "heads", "search")} | {
    "cnn": "torch",
    "lottery": "torch",
}
# Everything that a library could do to standard output while a solver or a model is at work.
TALK = """
import atexit, ctypes, logging, os, subprocess
from prunopt.core import files as artifact
from prunopt.commands import output
talker, plain = logging.StreamHandler(sys.stdout), output.plain
libc = ctypes.CDLL(None) if os.name == "posix" else None

def talk(data):
    output.plain = plain
    print("printed")
    os.write(1, b"written to the descriptor\\n")
    subprocess.run([sys.executable, "-c", "print('said by a child')"])
    talker.emit(logging.makeLogRecord({"msg": "logged to the stream of before"}))
    talker.stream.write("left in the buffer of Python")
    if libc:
        libc.printf(b"left in the buffer of C")
    atexit.register(print, "said at the end")
    return plain(data)

output.plain = talk
"""
SAID = ("printed", "written to the descriptor", "said by a child", "logged to the stream of before",
        "left in the buffer of Python", "said at the end")  # fmt: skip

SCHEMAS = ROOT / "prunopt" / "schemas"
SNAKE = re.compile("[a-z][a-z0-9_]*")


def envelope(command: str, **keys: Any) -> dict[str, Any]:
    """Return a document as `print_json` writes it."""
    return {"schema_version": SCHEMA, "prunopt_version": po.__version__, "command": command, **keys}


def conforms(name: str, document: dict[str, Any]) -> None:
    """Check a document against the published schema of its command, which describes every key of the first level."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    wrong = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]
    assert wrong == []
    assert set(document) <= set(schema["properties"])


def described(schema: dict[str, Any]) -> Iterator[str]:
    """Yield every key that a schema describes."""
    for key, part in schema.get("properties", {}).items():
        yield key
        yield from described(part)
    if isinstance(schema.get("items"), dict):
        yield from described(schema["items"])


def with_json() -> set[str]:
    """Names of the commands of the program that take ``--json``."""
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    return {name for name, c in commands.items() if any("--json" in option.opts for option in c.params)}


def test_every_command_has_a_case() -> None:
    assert with_json() == set(CASES)
    assert with_json() == set(command_names()), "a command without --json"


@pytest.mark.parametrize("name", CASES)
def test_standard_output_is_one_document(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    done = process([name, *CASES[name](tmp_path), "--json"], TALK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    conforms(name, document)
    assert document["prunopt_version"] == po.__version__
    said = [word for word in SAID if word not in done.stderr]
    assert not said, (said, done.stderr)


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors in a shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "| head -c 1"])
def test_closed_descriptors(closed: str) -> None:
    command = ["sh", "-c", f'"$0" -m prunopt solvers --json {closed}', sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    if closed == "2>&-":
        assert json.loads(done.stdout)


def test_the_descriptor_leads_back_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command(as_json: bool) -> None:
        os.write(1, b"from C\n")
        print("from Python")
        print_json({"a": 1})
        os.write(1, b"from C again\n")

    command(as_json=True)
    out, err = capfd.readouterr()
    assert json.loads(out) == envelope("command", a=1)
    assert err.splitlines() == ["from C", "from Python", "from C again"]
    os.write(1, b"after\n")
    print("and after")
    assert sorted(capfd.readouterr().out.splitlines()) == ["after", "and after"]


def test_an_error_brings_the_descriptor_back_and_keeps_the_document(capfd: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command(as_json: bool) -> None:
        print_json({"status": "INFEASIBLE"})
        raise ValueError("infeasible")

    with pytest.raises(typer.Exit):
        command(as_json=True)
    out, err = capfd.readouterr()
    assert json.loads(out) == envelope("command", status="INFEASIBLE")
    assert err == "prunopt: infeasible\n"
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


def test_the_estimate_is_a_document_too(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--estimate", "solve", *solve(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    conforms("solve", document)
    assert "solve needs about" in document["estimate"]


def test_every_command_has_a_schema_and_keys_are_in_snake_case() -> None:
    assert {file.stem for file in SCHEMAS.glob("*.json")} == set(CASES)
    for file in SCHEMAS.glob("*.json"):
        schema = json.loads(file.read_text("utf-8"))
        assert schema["properties"]["command"] == {"const": file.stem}
        assert schema["properties"]["schema_version"]["const"] == SCHEMA
        assert [key for key in described(schema) if not SNAKE.fullmatch(key)] == []


def test_a_document_that_breaks_the_schema_is_seen() -> None:
    pytest.importorskip("jsonschema")
    good = envelope("evaluate", model="m", parameters=3, texts={"a text.txt": {"perplexity": 2.0}})
    conforms("evaluate", good)
    for change in ({"parameters": "3"}, {"parameters": None}, {"more parameters": 1}, {"command": "solve"}):
        with pytest.raises(AssertionError):
            conforms("evaluate", good | change)
