"""`prunopt prune`, `evaluate` and `verify` as a user types them, on a tiny model with a tokenizer of letters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from typer.testing import CliRunner

from prunopt.cli import app
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


def prune(place: Path, out: Path, *more: Any) -> tuple[int, str, str]:
    words = ["--calibration", place / "text.txt", "--length", 32, "--windows", 20, "--out", out]
    return run("prune", place / "tiny", *words, *more)


def test_prune_evaluate_and_verify(place: Path, tmp_path: Path) -> None:
    words = ["--units", "heads,ffn", "--method", "obs-swap", "--sparsity", 0.3]
    status, said, errors = prune(place, tmp_path / "out", *words)
    assert status == 0, errors
    assert "asked for 8,294)" in said
    assert "model.layers.2.self_attn.o_proj" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    status, said, errors = run("evaluate", tmp_path / "out", "--text", place / "other.txt", "--length", 32, "--json")
    assert status == 0, errors
    found = json.loads(said)
    assert found["parameters"] < 35_000
    assert found["texts"][str(place / "other.txt")]["perplexity"] > 1
    status, said, errors = run("verify", tmp_path / "out", "--original", place / "tiny")
    assert status == 0, errors
    assert "parameters removed" in said
    assert "original: digest as in the manifest" in said


def test_patterns_are_verified_with_their_errors(place: Path, tmp_path: Path) -> None:
    status, said, errors = prune(
        place, tmp_path / "out", "--pattern", "2:4", "--method", "wanda", "--repair", "none", "--json"
    )
    assert status == 0, errors
    assert json.loads(said)["sparsity"] == 0.5
    words = ["--calibration", place / "text.txt", "--length", 32, "--windows", 20]
    status, said, errors = run("verify", tmp_path / "out", "--original", place / "tiny", *words)
    assert status == 0, errors
    assert "21 layers recomputed" in said
    path = tmp_path / "out" / "prunopt.json"
    manifest = json.loads(path.read_text())
    manifest["removed"] *= 2
    path.write_text(json.dumps(manifest))
    status, said, errors = run("verify", tmp_path / "out")
    assert status == 1
    assert "the manifest says" in errors


def test_masks_are_learned(place: Path, tmp_path: Path) -> None:
    words = ["--method", "maskllm", "--steps", 4]
    status, said, errors = prune(place, tmp_path / "out", "--pattern", "2:4", *words)
    assert status == 0, errors
    assert "learned for 4 of 4 steps" in errors
    status, said, errors = run("verify", tmp_path / "out")
    assert status == 0, errors
    assert "all 2:4" in said
    status, _, errors = prune(place, tmp_path / "other", *words)
    assert status == 1
    assert "pattern must be N:M with the method maskllm, got None" in errors
    for pattern, named in (("5:4", "5:4"), ("3:5", "q_proj must be a multiple of 5, got 32")):
        status, _, errors = prune(place, tmp_path / "other", "--pattern", pattern, *words)
        assert status == 1
        assert named in errors
        assert not list(tmp_path.glob("other*"))


def test_stock_code_is_promised_only_where_it_loads(place: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    words = ["--units", "ffn", "--sparsity", 0.25]
    status, said, errors = prune(place, tmp_path / "out", *words)
    assert status == 0, errors
    assert "or from_pretrained." in said
    status, again, errors = prune(place, tmp_path / "old", *words, "--uniform")
    assert status == 0, errors
    assert "--uniform is deprecated" in errors
    assert again.splitlines()[-4] == said.splitlines()[-4]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.intermediate_size < 64
    status, said, errors = prune(place, tmp_path / "out", "--units", "ffn", "--allocation", "log")
    assert status == 0, errors
    assert "from_pretrained('" in said
    assert "trust_remote_code=True): blocks differ in shape" in said


def test_windows_are_as_long_as_positions_reach_and_verify_reads_how_many(place: Path, tmp_path: Path) -> None:
    words = [
        "--calibration",
        place / "text.txt",
        "--windows",
        6,
        "--no-evaluate",
        "--out",
        tmp_path / "out",
        "--repair",
        "none",
    ]
    status, _, errors = run("prune", place / "tiny", *words)
    assert status == 0, errors
    options = json.loads((tmp_path / "out" / "prunopt.json").read_text())["options"]
    assert (options["windows"], options["length"]) == (6, 64)  # the model's positions
    known = ["--original", place / "tiny", "--calibration", place / "text.txt"]
    status, said, errors = run("verify", tmp_path / "out", *known)
    assert status == 0, errors
    assert "3 layers recomputed" in said
    status, _, errors = run("verify", tmp_path / "out", *known, "--windows", 5)
    assert status == 1
    assert "the calibration is not the one that was used" in errors
    status, _, errors = run("evaluate", tmp_path / "out", "--text", place / "other.txt", "--windows", 1)
    assert status == 0, errors
    manifest = json.loads((tmp_path / "out" / "prunopt.json").read_text())
    manifest["options"]["windows"] = "many"
    (tmp_path / "out" / "prunopt.json").write_text(json.dumps(manifest))
    status, _, errors = run("verify", tmp_path / "out", *known)
    assert status == 1
    assert "windows of" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 4096}, 512), ({"n_positions": 128}, 128), ({}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, 64),
        ({"text_config": {"max_position_embeddings": 256}}, 256), ([], 512),
    ],
)  # fmt: skip
def test_the_length_of_a_window_is_read_from_the_configuration(config: Any, length: int, tmp_path: Path) -> None:
    from prunopt.commands.lengths import window_length

    (tmp_path / "config.json").write_text(json.dumps(config))
    assert window_length(str(tmp_path)) == length
    assert window_length("smollm2") == 512


def test_evaluate_and_verify_take_a_family_from_a_file(place: Path, tmp_path: Path) -> None:
    from prunopt.networks.transformers import families

    (tmp_path / "mine.py").write_text(
        "from prunopt.networks.transformers.families import Family\n"
        "mine = Family('mine', 'self_attn', ('q_proj', 'k_proj', 'v_proj'), 'self_attn.o_proj',\n"
        "              'mlp.up_proj', 'mlp.gate_proj', 'mlp.down_proj')\n"
    )
    named = ["--family", f"{tmp_path / 'mine.py'}:mine"]
    try:
        status, _, errors = prune(place, tmp_path / "out", "--no-evaluate", *named)
        assert status == 0, errors
        for words in (["verify", tmp_path / "out"], ["evaluate", tmp_path / "out", "--text", place / "other.txt"]):
            families._FAMILIES.pop("mine")
            status, _, errors = run(*words, *named)
            assert status == 0, errors
            assert "mine" in families._FAMILIES
    finally:
        families._FAMILIES.pop("mine", None)
    for words in (["verify", tmp_path / "out"], ["evaluate", tmp_path / "out", "--text", place / "other.txt"]):
        status, _, errors = run(*words, "--family", "none.py:mine")
        assert status == 1
        assert "family must name a file that exists, got 'none.py'" in errors


def test_the_defaults_of_command_and_library_are_one(place: Path, tmp_path: Path) -> None:
    from prunopt.networks import prune_transformer, read_model
    from prunopt.networks.transformers.text import source_windows

    status, said, errors = prune(place, tmp_path / "out", "--json")
    assert status == 0, errors
    model, tokenizer = read_model(place / "tiny")
    windows = source_windows(tokenizer, [str(place / "text.txt")], length=32, count=20, seed=0)
    options = json.loads(said)["options"]
    assert options.pop("repair")["kind"] == "outputs"  # the command alone has all of the text at hand
    assert options == prune_transformer(model, windows).options
    assert json.loads(said)["options"]["method"] == "wanda"


def test_a_budget_of_parameters_is_kept(place: Path, tmp_path: Path) -> None:
    status, _, errors = prune(place, tmp_path / "out", "--budget", "parameters=0.8")
    assert status == 0, errors
    counts = [json.loads(run("evaluate", p, "--text", place / "other.txt", "--length", 32, "--json")[1])["parameters"]
              for p in (place / "tiny", tmp_path / "out")]  # fmt: skip
    assert 0.79 * counts[0] < counts[1] <= 0.8 * counts[0]


def test_models_without_a_next_token_are_refused(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from prunopt.networks.transformers.tiny_models import SHARED

    sizes: dict[str, Any] = SHARED
    write_tiny_model(tmp_path / "bert")
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**sizes, initializer_range=0.2)).save_pretrained(tmp_path / "bert")
    (tmp_path / "text.txt").write_text(TEXT)
    status, said, errors = run("evaluate", tmp_path / "bert", "--text", tmp_path / "text.txt", "--length", 32)
    assert status == 1
    assert said == ""
    assert "model must be a causal language model, got BertForMaskedLM; next-token losses" in errors
    status, _, errors = run("evaluate", tmp_path / "bert", "--text", tmp_path / "text.txt", "--length", 65)
    assert status == 1
    assert "length must be at most 64, the positions of BertForMaskedLM, got 65" in errors


def test_allocations_come_from_a_file(place: Path, tmp_path: Path) -> None:
    (tmp_path / "shares.json").write_text(json.dumps({"allocation": [0.1, 0.2, 0.3]}))
    status, said, errors = prune(
        place, tmp_path / "out", "--units", "ffn", "--allocation", tmp_path / "shares.json", "--json"
    )
    assert status == 0, errors
    kept = [row["kept"] for row in json.loads(said)["report"]]
    assert kept[0] > kept[1] > kept[2]


def test_another_domain_is_checked(place: Path, tmp_path: Path) -> None:
    words = ["--units", "ffn", "--sparsity", 0.5, "--check", place / "other.txt"]
    status, said, errors = prune(place, tmp_path / "out", *words, "--json")
    assert status == 0, errors
    perplexity = json.loads(said)["evaluation"]["perplexity"]
    assert set(perplexity) == {"calibration", "second_text"}


@pytest.mark.parametrize("name", ["owl", "als", "als-row", "atp", "mckp"])
def test_measured_allocations(name: str, place: Path, tmp_path: Path) -> None:
    words = ["--pattern", "unstructured", "--method", "wanda", "--sparsity", 0.5, "--allocation", name, "--json"]
    status, said, errors = prune(place, tmp_path / "out", *words)
    assert status == 0, errors
    found = json.loads(said)
    assert abs(found["sparsity"] - 0.5) < 0.02  # whole weights in every row
    zeros = [1 - row["kept"] / row["total"] for row in found["report"]]
    assert np.allclose(
        found["options"]["sparsities"], [np.mean(part) for part in np.split(np.array(zeros), 3)], atol=0.03
    )
    if name != "atp":  # where no step is better than none, that is uniform
        assert np.ptp(found["options"]["sparsities"]) > 1e-3


def test_an_allocation_of_a_pattern_is_refused(place: Path, tmp_path: Path) -> None:
    status, _, errors = prune(place, tmp_path / "out", "--pattern", "2:4", "--allocation", "als")
    assert status == 1
    assert "allocation must be 'uniform' with pattern 2:4, got 'als'; it removes as much everywhere" in errors


def test_killed_it_goes_on_with_resume(place: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "prunopt",
        "prune",
        place / "tiny",
        "--calibration",
        place / "text.txt",
        "--length",
        32,
    ]
    words += ["--windows", 20, "--sparsity", 0.3, "--out"]
    text = [str(w) for w in words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*text, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    work = tmp_path / "killed.work"
    with subprocess.Popen([*text, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(work.glob("step-0001*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    if not (tmp_path / "killed").exists():  # else it was done before the signal came
        again = subprocess.run([*text, str(tmp_path / "killed")], env=environment, capture_output=True, text=True)
        assert again.returncode == 1
        assert "give --resume" in again.stderr
        subprocess.run([*text, str(tmp_path / "killed"), "--resume"], check=True, env=environment, capture_output=True)
    both = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert both[0] == both[1]
    assert not work.exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--sparsity", "1.5"], "sparsity must be a finite number >= 0 and < 1, got 1.5"),
        (["--units", "legs"], "units must be one of 'heads', 'ffn', 'experts', got 'legs'"),
        (["--sparsity", "0"], "sparsity must be above 0"), (["--sparsity", "0.00001"], "sparsity must remove a unit"),
        (["--pattern", "2:4", "--sparsity", "0.2"], "sparsity must be 0.5, got 0.2; pattern 2:4 sets it; leave it out"),
        (["--budget", "macs=0.5"], "must be one of 'parameters', 'memory', 'kv_cache'"),
        (["--budget", "parameters=0.8", "--sparsity", "0.2"], "sparsity must be left out where a budget is given"),
        (["--rarity", "0.5"], "rarity must be left out, got 0.5; it was removed"),
        (["--method", "magic"], "method must be one of"),
        (["--length", "70"], "length must be at most 64, the positions"),
        (["--allocation", "best"], "allocation must be one of"), (["--length", "5000"], "windows of 5000"),
        (["--calibration", "nowhere.txt"], "nowhere.txt"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(place: Path, tmp_path: Path, words: list[str], named: str) -> None:
    status, said, errors = prune(place, tmp_path / "out", *words)
    assert status == 1
    assert said == ""
    assert named in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model(place: Path, tmp_path: Path) -> None:
    status, _, errors = run("evaluate", tmp_path, "--text", place / "text.txt")
    assert status == 1
    assert "must be a folder with config.json or prunopt.json" in errors
    status, _, errors = run("verify", tmp_path)
    assert status == 1
    assert "folder must hold prunopt.json" in errors


def test_several_budgets_in_one_program(place: Path, tmp_path: Path) -> None:
    budgets = ["--budget", "memory=0.8", "--budget", "latency_ms=0.9x", "--granularity", "blocks,heads,ffn"]
    status, _, errors = prune(place, tmp_path / "out", *budgets)
    assert status == 0, errors
    assert "memory: " in errors
    assert "latency_ms: " in errors
    status, _, errors = run("verify", tmp_path / "out", "--original", place / "tiny")
    assert status == 0, errors
    status, _, errors = prune(place, tmp_path / "other", *budgets, "--method", "wanda")
    assert (status, errors.count("\n")) == (1, 1)
    assert "--method must be left out" in errors
    status, _, errors = prune(place, tmp_path / "other", "--granularity", "ffn")
    assert (status, "--granularity must come with a budget" in errors) == (1, True)
    status, _, errors = prune(place, tmp_path / "other", "--budget", "memory=10")
    assert (status, "nearest feasible request: memory=" in errors) == (1, True)


def test_the_whole_model_is_repaired_unless_told_otherwise(place: Path, tmp_path: Path) -> None:
    status, said, errors = prune(place, tmp_path / "out", "--json")
    assert status == 0, errors
    found = json.loads((tmp_path / "out" / "prunopt.json").read_text())["output_repair"]
    assert found["after"] < found["before"]
    assert found["tokens"] > 32 * 20  # of all the text, not of the calibration's windows alone
    assert any("repair of outputs" in text for text in json.loads(said)["notes"])
    status, said, errors = prune(place, tmp_path / "plain", "--repair", "none", "--json")
    assert status == 0, errors
    assert "output_repair" not in json.loads((tmp_path / "plain" / "prunopt.json").read_text())
    status, _, errors = prune(place, tmp_path / "short", "--repair-minutes", 0.01)
    assert status == 0, errors
    status, _, errors = prune(place, tmp_path / "bad", "--repair", "blocks", "--repair-minutes", 1)
    assert status != 0
    assert "--repair-minutes must be left out" in errors


def test_what_is_not_repaired_is_said(place: Path, tmp_path: Path) -> None:
    status, _, errors = prune(place, tmp_path / "out", "--stream")
    assert status == 0, errors
    assert "the outputs are not repaired: the model is streamed" in errors
    status, _, errors = prune(place, tmp_path / "bad", "--stream", "--repair", "outputs")
    assert status != 0
    assert "repair must be left out for a model that is streamed" in errors


def test_the_result_comes_in_another_number_format(place: Path, tmp_path: Path) -> None:
    status, _, errors = prune(place, tmp_path / "out", "--dtype", "bfloat16", "--repair", "none")
    assert status == 0, errors
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    sizes = [sum(f.stat().st_size for f in (p).glob("*.safetensors")) for p in (place / "tiny", tmp_path / "out")]
    assert sizes[1] < 0.55 * sizes[0]
    words = ["--original", place / "tiny", "--calibration", place / "text.txt", "--length", 32, "--windows", 20]
    status, _, errors = run("verify", tmp_path / "out", *words)
    assert status == 0, errors
    status, _, errors = prune(place, tmp_path / "repaired", "--dtype", "bfloat16")
    assert status == 0, errors
    status, _, errors = run("verify", tmp_path / "repaired", *words)
    assert status == 0, errors
    status, _, errors = prune(place, tmp_path / "bad", "--dtype", "int8")
    assert status != 0
    assert "dtype must be one of" in errors
