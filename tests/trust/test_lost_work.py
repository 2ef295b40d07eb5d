"""Kills, full disks, read-only folders, interrupts, two processes on one folder: nothing is lost or torn."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.core.files import only_writer, write_json, write_text
from tests.support.kills import digests, torn
from tests.support.rights import obedient

ONE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_commands_killed_at_random_moments_lose_nothing() -> None:
    """Two kills each; `python -m benchmarks.kill` makes it fifty."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    words = [sys.executable, "-m", "tests.support.kills", "forest,prune", "2", "1"]
    done = subprocess.run(words, capture_output=True, text=True, env=ONE, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["command"] for row in found] == ["forest", "prune"], done.stderr[-2000:]
    for row in found:
        assert row["repeats"], "two undisturbed runs differ"
        assert not row["faults"]
        assert row["files"] >= 4
    assert sum(row["kills"] for row in found) >= 2


@pytest.mark.parametrize("suffix", [".json", ".csv", ".skops", ".safetensors", ".png", ".journal"])
def test_torn_files_are_found(suffix: str, tmp_path: Path) -> None:
    """What the kill test looks for, planted."""
    from tests.support.files import readers

    if suffix == ".safetensors":
        pytest.importorskip("torch")
    place = tmp_path / f"a{suffix}"
    if suffix == ".png":
        place.write_bytes(b"\x89PNG....IEND\xaeB`\x82")
    else:
        found = [r for r in readers(torch=suffix == ".safetensors") if r.file.endswith(suffix)]
        found[-1 if suffix == ".safetensors" else 0].write(place)
        if suffix == ".safetensors":
            place = place.parent / found[-1].file
    assert not torn(tmp_path)
    whole = digests(tmp_path, ("*",))
    data = place.read_bytes()
    place.write_bytes(data[: len(data) - 6] if suffix != ".journal" else b"{no journal\n" + data)
    assert torn(tmp_path)
    if suffix in (".csv", ".png"):
        assert digests(tmp_path, ("*",)) != whole


HOLDER = """
import sys, time
from prunopt.core.files import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_on_one_folder_is_refused_by_name_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "kept.json").write_text("1")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(target)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"out: process {holder.pid} is writing it"), only_writer(target):
            pass
        from typer.testing import CliRunner

        from prunopt.cli import app

        refused = CliRunner().invoke(app, ["forest", "--trees", "2", "--out", str(target)])
        assert refused.exit_code == 1
        assert f"process {holder.pid}" in refused.stderr
        (target / ".report-abcd1234.json").write_text("half")  # what a killed writer leaves
        (tmp_path / ".out-abcd1234").mkdir()
        holder.send_signal(signal.SIGKILL)
    with only_writer(target):
        assert sorted(p.name for p in target.iterdir()) == ["kept.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_without_the_lock_two_would_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the lock can fail: with none, the second process gets in, and takes away what the first writes."""
    from prunopt.core import files as artifact

    target = tmp_path / "out"
    target.mkdir()
    with only_writer(target):
        with pytest.raises(ValueError, match="is writing it"), only_writer(target):
            pass
        monkeypatch.setattr(artifact, "take_lock", lambda _: None)
        with only_writer(target):
            pass


def test_what_a_killed_writer_of_a_file_left_is_removed(tmp_path: Path) -> None:
    for name in (".a-abcd1234.json", ".a-abcd1234.txt", ".a-b-abcd1234.json", ".ab-abcd1234.json"):
        (tmp_path / name).write_text("half")
    with only_writer(tmp_path / "a.json"):
        left = sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock"))
    assert left == [".a-abcd1234.txt", ".a-b-abcd1234.json", ".ab-abcd1234.json"]


def test_a_patient_writer_waits_for_the_other(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    code = HOLDER.replace("time.sleep(60)", "time.sleep(0.5)")
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is writing it"), only_writer(target, patience=0.1):
            pass
        with only_writer(target, patience=60.0):
            pass
    assert not list(tmp_path.glob(".*"))


def test_search_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """Pictures under temporary names once stayed: workers share the folder, so that none may sweep it unasked."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.support import kills

    kills.write_inputs(tmp_path)
    command, folder = kills.commands(tmp_path)["search"], tmp_path / "run"
    (folder / "out").mkdir(parents=True)
    (folder / "out" / ".sparsity-by-layer-0.5-abcd1234.png").write_bytes(b"half")
    _, status = os.waitpid(kills.start(command.run, command.words(folder), tmp_path / "log"), 0)
    assert status == 0, (tmp_path / "log").read_text()
    assert (folder / "out" / "report.json").is_file()
    assert not [p.name for p in folder.rglob(".*")]


def limited(path: Path, size: int) -> str:
    """Write a large file in a process that may write no file beyond ``size`` bytes, and return how that ended."""
    code = (
        "import signal, sys\nfrom prunopt.core.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n    write_text(sys.argv[1], 'x' * 10**6)\nexcept OSError as error:\n    print(error.strerror)"
    )

    def cap() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, preexec_fn=cap)
    return done.stdout.strip()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    assert limited(path, 10**4) == "File too large"
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert limited(path, 10**7) == ""
    assert len(path.read_text()) == 10**6


def test_files_that_belong_together_are_all_old_or_all_new(tmp_path: Path) -> None:
    """A full disk at the second file once left a folder of new curves beside an old forest."""
    from prunopt.core.files import write_atomically, written_together

    for name in ("a.txt", "b.txt"):
        write_text(tmp_path / name, "old")

    def half() -> None:
        with written_together():
            write_text(tmp_path / "a.txt", "new")
            with write_atomically(tmp_path / "b.txt") as temporary:
                temporary.write_text("ne")
                raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        half()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old", "b.txt": "old"}
    with written_together():
        write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").read_text() == "old"
        write_text(tmp_path / "b.txt", "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "new", "b.txt": "new"}


def test_a_full_disk_under_safetensors_is_an_error_of_the_system(tmp_path: Path) -> None:
    """It once ended `prunopt prune` in a traceback."""
    torch, st = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    from prunopt.core.files import write_atomically

    def cap() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    was = signal.getsignal(signal.SIGXFSZ), resource.getrlimit(resource.RLIMIT_FSIZE)
    cap()
    try:
        with (
            pytest.raises(OSError, match=r"File too large: .*a\.safetensors"),
            write_atomically(tmp_path / "a.safetensors") as temporary,
        ):
            st.save_file({"a": torch.zeros(10_000)}, temporary)
    finally:
        signal.signal(signal.SIGXFSZ, was[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, was[1])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_a_form_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = po.load_form  # kept so that a broken import is not a reason to pass
    path = tmp_path / "a.npz"
    from prunopt.forms import Closure

    po.save_form(Closure.of([1.0, 2.0]), path)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        po.save_form(Closure.of([3.0]), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert form(path).n_items == 2


READ_ONLY = """
import sys
from pathlib import Path
from prunopt.core.files import only_writer, write_json

folder = Path(sys.argv[1])
for attempt in (lambda: write_json(folder / "a.json", 2), lambda: only_writer(folder / "out").__enter__()):
    try:
        attempt()
    except PermissionError:
        print("refused")
"""


@pytest.mark.skipif(obedient() is None, reason="root may write anywhere, and there is no setpriv to take that away")
def test_a_read_only_folder_keeps_its_state(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    tmp_path.chmod(0o500)
    command = [*(obedient() or []), sys.executable, "-c", READ_ONLY, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    tmp_path.chmod(0o700)
    assert done.stdout.split() == ["refused", "refused"], done.stderr
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_interrupt_gives_the_best_so_far_with_its_bound(tmp_path: Path) -> None:
    """SIGINT in the middle of a long solve: status 130 and one line with objective and bound."""
    from prunopt.forms import QuadraticSubset

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 90))
    form = QuadraticSubset(rng.normal(size=(4, 60)), X @ X.T, [[i] for i in range(60)], 30)
    po.save_form(form, tmp_path / "a.npz")
    words = [sys.executable, "-m", "prunopt", "solve", str(tmp_path / "a.npz"), "--solver", "obs-branch-and-bound"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE) as running:
        time.sleep(4)
        running.send_signal(signal.SIGINT)  # once: a second one may meet the interpreter on its way out
        running.wait(120)
        assert running.stderr is not None
        said = running.stderr.read()
    assert running.returncode == 130, said
    assert said.startswith("prunopt: interrupted")
    assert len(said.strip().splitlines()) == 1
