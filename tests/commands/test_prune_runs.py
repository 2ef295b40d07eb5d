"""`prunopt prune`: figures before and after, recipes, streaming, progress, runs that crashed, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from typer.testing import CliRunner

from prunopt.cli import app
from prunopt.commands import output
from prunopt.networks.transformers.tiny_models import write_tiny_model

TEXT = "The quick brown fox jumps over the lazy dog; 17 foxes (and 3 dogs) slept.\n" * 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder / "tiny")
    (folder / "text.txt").write_text(TEXT)
    (folder / "other.txt").write_text("Pack my box with five dozen liquor jugs. " * 60)
    return folder


def run(*words: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(w) for w in words])
    return result.exit_code, result.stdout, result.stderr


def words(place: Path, out: Path, *more: Any) -> list[str]:
    given = ["prune", place / "tiny", "--calibration", place / "text.txt", "--length", 32, "--windows", 12]
    return [str(w) for w in (*given, "--out", out, *more)]


def test_a_run_ends_with_before_and_after(place: Path, tmp_path: Path) -> None:
    status, said, errors = run(*words(place, tmp_path / "out"))
    assert status == 0, errors
    shown = [line.split("  ")[0] for line in said.splitlines()]
    for name in ("perplexity, calibration text, held out (124 tokens)", "perplexity, second text (124 tokens)",
                 "parameters", "bytes", "tokens per second, one pass"):  # fmt: skip
        assert name in shown
    assert "| parameters |" in (tmp_path / "out" / "README.md").read_text()
    status, _, errors = run("report", tmp_path / "out")
    assert status == 0, errors
    page = (tmp_path / "out" / "report.html").read_text()
    assert 0 < page.index("perplexity, calibration text, held out") < page.index("asked for")
    status, said, errors = run(*words(place, tmp_path / "other", "--check", place / "other.txt", "--json"))
    assert status == 0, errors
    found = json.loads(said)["evaluation"]
    assert set(found["perplexity"]) == {"calibration", "second_text"}
    assert all(set(row) == {"before", "after", "tokens"} for row in found["perplexity"].values())
    manifest = json.loads((tmp_path / "other" / "prunopt.json").read_text())
    assert manifest["evaluation"] == found


def test_no_evaluate_scores_nothing(place: Path, tmp_path: Path) -> None:
    status, said, errors = run(*words(place, tmp_path / "out", "--no-evaluate", "--json"))
    assert status == 0, errors
    assert set(json.loads(said)["evaluation"]) == {"parameters", "bytes"}


def test_streamed_by_the_command_it_is_the_same_file(place: Path, tmp_path: Path) -> None:
    for name, how in (("whole", "--no-stream"), ("streamed", "--stream")):
        status, said, errors = run(*words(place, tmp_path / name, how, "--repair", "none", "--json"))
        assert status == 0, errors
        assert json.loads(said)["streamed"] is (name == "streamed")
    for name in ("model.safetensors", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes()
    status, _, errors = run("verify", tmp_path / "streamed", "--original", place / "tiny")
    assert status == 0, errors


def test_streaming_is_taken_where_the_model_does_not_fit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunopt.commands import estimates
    from prunopt.core import memory

    def whole() -> float:  # what the command would ask for in memory
        found = estimates.model_sizes(str(place / "tiny"))
        assert found is not None
        return 1e9 * found.parameters / found.parameters

    monkeypatch.setattr(estimates, "room", lambda: (0.0, "nothing"))
    monkeypatch.setattr(memory, "room", lambda: (whole(), "nothing"))
    status, said, errors = run(*words(place, tmp_path / "out", "--json"))
    assert status == 0, errors
    assert json.loads(said)["streamed"] is True
    status, said, errors = run(*words(place, tmp_path / "in-memory", "--json", "--no-stream"))
    assert json.loads(said)["streamed"] is False, errors


def test_a_recipe_is_saved_and_gives_the_same_model(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    status, _, errors = run(*words(place, tmp_path / "out", "--sparsity", 0.3, "--units", "heads,ffn"))
    assert status == 0, errors
    recipe = tmp_path / "out" / "recipe.yaml"
    assert "sparsity: 0.3" in recipe.read_text()
    status, _, errors = run("prune", "--config", recipe, "--out", tmp_path / "again")
    assert status == 0, errors
    both = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert both[0] == both[1]
    assert recipe.read_text() == (tmp_path / "again" / "recipe.yaml").read_text()
    status, said, errors = run("prune", "--config", recipe, "--out", tmp_path / "less", "--sparsity", 0.1, "--json")
    assert status == 0, errors
    assert json.loads(said)["options"]["sparsity"] == 0.1  # the command line's own go before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sparcity: 0.2", "must be one of the command, got 'sparcity'; options are"),
        ("[1, 2]", "--config must hold options by their names"),
        ("a: [", "--config must be a YAML file"),
        ("sparsity: {a: 1}", "sparsity of .* must be one value, got dict"),
        ("!!python/object/apply:os.system [ls]", "--config must be a YAML file"),
    ],
)
def test_bad_recipes_are_one_line(text: str, named: str, place: Path, tmp_path: Path) -> None:
    import re

    pytest.importorskip("yaml")
    (tmp_path / "bad.yaml").write_text(text)
    status, said, errors = run(*words(place, tmp_path / "out", "--config", tmp_path / "bad.yaml"))
    assert status == 1
    assert said == ""
    assert re.search(named, errors), errors
    assert len(errors.strip().splitlines()) == 1


def test_a_run_that_crashed_does_not_block_the_corrected_call(place: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "out.work"
    for bad in (["--method", "magic"], ["--calibration", "nowhere.txt"], ["--device", "nope"]):
        status, _, _ = run(*words(place, out, *bad))
        assert status == 1
        assert not work.exists()  # nothing was done
    status, _, errors = run(*words(place, tmp_path / "done"))
    assert status == 0, errors
    work.mkdir()
    (work / "recipe.yaml").write_text((tmp_path / "done" / "recipe.yaml").read_text())
    (work / "journal.json").write_text("{}")
    (work / "step-0000.safetensors").write_bytes(b"some work")
    status, _, errors = run(*words(place, out))
    assert status == 1
    assert "give --resume, or remove it" in errors
    assert len(errors.strip().splitlines()) == 1
    status, _, errors = run(*words(place, out, "--sparsity", 0.3))
    assert status == 0, errors
    assert "had other options (sparsity); this one starts from nothing" in errors
    assert not work.exists()


def test_progress_off_a_terminal_is_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with output.progress("prune") as tell:
        tell("reading the model")  # short runs stay silent
        for done in range(1, 9):
            now[0] += 10.0
            tell(f"layer {done}", done, 8)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "prunopt: prune: 2 of 8 (layer 2), 20 s, about 1 min 0 s left"
    assert said[-1] == "prunopt: prune: 8 of 8 (layer 8), 1 min 20 s, about 0 s left"
    assert len(said) == 4


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--pattern", "2:4", "--method", "wanda", "--no-refit", "--stream"]])
def test_two_processes_give_the_model_of_one(more: list[str], place: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    status, _, errors = run(*words(place, tmp_path / "one", *more, "--no-evaluate", "--repair", "none"))
    assert status == 0, errors
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    launcher += ["--rdzv-endpoint=127.0.0.1:0", "-m", "prunopt"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    ask: dict[str, Any] = {"env": environment, "capture_output": True, "text": True, "timeout": 180, "check": False}
    done = subprocess.run([*launcher, *words(place, tmp_path / "two", *more, "--json")], **ask)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["written"] == str(tmp_path / "two")  # one writer, one document
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=0, atol=1e-6), name
    rows = [json.loads((tmp_path / n / "prunopt.json").read_text())["report"] for n in ("one", "two")]
    assert [r["gone"] for r in rows[0]] == [r["gone"] for r in rows[1]]
    assert [r["error"] for r in rows[0]] == pytest.approx([r["error"] for r in rows[1]], rel=1e-6)
    bad = subprocess.run([*launcher, *words(place, tmp_path / "bad", "--sparsity", 3)], **ask)
    assert bad.returncode == 1
    assert "prunopt: sparsity must be a finite number" in bad.stderr
    assert "prunopt/commands/prune.py" not in bad.stderr  # torchrun shows its own traceback, and none of ours
    assert not (tmp_path / "bad").exists()
