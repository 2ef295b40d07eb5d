"""Commands say what memory they need, and refuse before they start where there is less."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import prunopt as po
from prunopt.cli import app
from prunopt.core import memory
from prunopt.core.memory import MI, require, room

CAPPED = """
import resource, sys
import scipy.linalg, scipy.sparse, sklearn.ensemble, prunopt.forests  # libraries first: they need far more
from prunopt.__main__ import main
import prunopt.cli
most = int(next(l for l in open("/proc/self/status") if l.startswith(sys.argv[2])).split()[1]) * 1024 + int(sys.argv[3])
resource.setrlimit(getattr(resource, sys.argv[1]), (most, most))
sys.argv = ["prunopt", *sys.argv[4:]]
main()
"""


def test_what_is_left_is_the_least_of_all_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free, whose = room()
    assert 0 < free < 2**50
    assert whose
    monkeypatch.setattr(memory, "_groups", lambda: [(5.0 * MI, 2.0 * MI), (9.0 * MI, 8.0 * MI)])
    assert room() == (1.0 * MI, "the control group")


def test_too_little_is_refused_with_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"weights": 100.0 * MI, "Hessians": 300.0 * MI}
    assert require("prunopt x", parts, "give less") >= 400 * MI
    monkeypatch.setattr(memory, "room", lambda: (399.0 * MI, "the limit on data (ulimit -d)"))
    stated = r"x needs about [\d.]+ [MG]iB .*Hessians 300 MiB, weights 100 MiB.*: give less"
    with pytest.raises(MemoryError, match=stated):
        require("prunopt x", parts, "give less")
    monkeypatch.setattr(memory, "room", lambda: (600.0 * MI, "the limit on data (ulimit -d)"))
    require("prunopt x", parts, "give less")  # so that the refusal is due to the limit


def test_the_estimate_is_stated_and_nothing_is_begun(tmp_path: Path) -> None:
    from prunopt.forms import Closure

    po.save_form(Closure.of([1.0, 2.0]), tmp_path / "a.npz")
    stated = CliRunner().invoke(app, ["--estimate", "solve", str(tmp_path / "a.npz")])
    assert stated.exit_code == 0
    assert stated.stdout.startswith("prunopt solve needs about ")
    done = CliRunner().invoke(app, ["solve", str(tmp_path / "a.npz"), "--json"])  # the wish does not last
    assert json.loads(done.stdout)["status"] == "OPTIMAL"


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "held"), [("RLIMIT_DATA", "VmData"), ("RLIMIT_AS", "VmSize")])
def test_a_command_under_a_cap_finishes_or_refuses_before_it_starts(limit: str, held: str, tmp_path: Path) -> None:
    if not hasattr(resource, limit) or not Path("/proc/self/status").is_file():
        pytest.skip(f"no {limit} here")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    rows = "\n".join(f"{k % 7},{k % 5},{k % 2}" for k in range(200))
    (tmp_path / "t.csv").write_text(f"a,b,ill\n{rows}\n")
    words = ["forest", "--data", str(tmp_path / "t.csv"), "--target", "ill", "--trees", "2", "--splits", "0"]
    ends = {}
    for spare in (20 * MI, 2000 * MI):
        out = tmp_path / f"out{spare}"
        line = [sys.executable, "-c", CAPPED, limit, held, str(spare), *words, "--out", str(out)]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
        ends[spare] = done.returncode
        if spare == 20 * MI:
            assert "prunopt forest needs about" in done.stderr, done.stderr
            assert "the limit on" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
            assert not list(out.glob("*"))
    assert ends == {20 * MI: 1, 2000 * MI: 0}


def test_a_cap_that_the_libraries_do_not_fit_under_is_one_line(tmp_path: Path) -> None:
    code = CAPPED.replace("import scipy", "#").replace("import prunopt.cli", "")
    line = [sys.executable, "-c", code, "RLIMIT_AS", "VmSize", str(40 * MI), "solvers"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("prunopt: it cannot be loaded: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_sizes_of_a_model_come_from_headers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from prunopt.commands.estimates import model_sizes
    from prunopt.networks.transformers.tiny_models import tiny_transformer, write_tiny_model

    write_tiny_model(tmp_path)
    found = model_sizes(str(tmp_path))
    assert found is not None
    true = sum(p.numel() for p in tiny_transformer("llama").parameters())
    assert 0.9 * true <= found.parameters <= 1.1 * true
    assert min(found.hidden, found.inner, found.layers, found.vocabulary, found.heads) >= 1
    assert model_sizes(str(tmp_path / "nowhere")) is None
    (tmp_path / "config.json").write_text("[")
    assert model_sizes(str(tmp_path)) is None
