"""Commands killed at random moments: ``python -m tests.support.kills prune 50``.

A command runs in a process forked from this one, which has loaded everything, so that the kills fall into its work.
After each kill every file under its final name must be whole; the command is run again (with ``--resume`` where it has
one) and must end with what an undisturbed run wrote. Prints one line of JSON for each command.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TEXT = "The quick brown fox jumps over the lazy dog; 17 foxes (and 3 dogs) slept.\n" * 40
VARY = (
    "seconds",
    "lost",
    "evaluations",
    "storage",
    "options",
    "notes",
    "took",
    "milliseconds",
    "speed_up",
    "tokens_per_second",
)  # what two equal runs may differ in: times, and where they ran


def _prunopt(words: list[str]) -> None:
    from prunopt.cli import app

    app(words, standalone_mode=True)


class Command(NamedTuple):
    """How a command is called in a folder, and called again; which of its files count."""

    words: Callable[[Path], list[str]]
    again: tuple[str, ...] = ()
    files: tuple[str, ...] = ("*",)
    run: Callable[[list[str]], Any] = _prunopt


def commands(inputs: Path) -> dict[str, Command]:
    """Return the commands; ``inputs`` holds a tiny model and a text."""
    calibration = ["--calibration", str(inputs / "text.txt"), "--length", "32", "--windows", "12"]
    model = str(inputs / "tiny")

    def forest(place: Path) -> list[str]:
        return ["forest", "--trees", "6", "--splits", "0", "--out", str(place / "out")]

    def prune(place: Path) -> list[str]:
        return ["prune", model, *calibration, "--sparsity", "0.3", "--out", str(place / "out")]

    def masks(place: Path) -> list[str]:
        learned = ["--method", "maskllm", "--steps", "8", "--pattern", "2:4"]
        return ["prune", model, *calibration, *learned, "--out", str(place / "out")]

    def search(place: Path) -> list[str]:
        sizes = ["--sparsity", "0.5", "--trials", "5", "--methods", "uniform", "--solver", "random-search", "--repair"]
        return ["search", model, *calibration[:4], "--windows", "2", *sizes, "--out", str(place / "out")]

    return {
        "forest": Command(forest, files=("out/*.json", "out/*.csv", "out/*.skops", "out/*.png")),
        "prune": Command(prune, ("--resume",), ("out/*",)),
        "masks": Command(masks, ("--resume",), ("out/*",)),
        "search": Command(search, files=("out/allocation*.json",)),
    }


def write_inputs(folder: Path) -> None:
    """Write a tiny model and a text to calibrate it on."""
    from prunopt.networks.transformers.tiny_models import write_tiny_model

    write_tiny_model(folder / "tiny")
    (folder / "text.txt").write_text(TEXT)


def start(run: Callable[[list[str]], Any], words: list[str], log: Path) -> int:
    """Run a command in a forked process; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        run(words)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def torn(folder: Path) -> list[str]:
    """Return the files under their final names that cannot be read."""
    return [f"{p}: {why}" for p in sorted(folder.rglob("*")) if p.is_file() and (why := _unreadable(p))]


def _unreadable(path: Path) -> str:
    if path.name.startswith(".") or path.suffix == ".guard" or path.name.endswith((".lock", ".torn")):
        return ""
    if any(part.startswith(".") for part in path.parts):
        return ""  # temporary folders
    try:
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix in (".skops", ".npz"):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() or ""
        elif path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_slice(name)[...]
        elif path.suffix == ".png":
            return "" if path.read_bytes()[-8:-4] == b"IEND" else "cut short"
        elif path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8") as file:
                return "" if len({len(row) for row in csv.reader(file)}) == 1 else "cut short"
        elif path.suffix == ".journal":
            from prunopt.study.journal import JournalError, check

            try:
                check(path)
            except JournalError as error:  # a torn last line is found, and set aside by --repair
                return "" if "was cut off while it was written" in str(error) else str(error)
    except Exception as error:  # whatever it is, the file is not whole
        return repr(error)
    return ""


def digests(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Return a digest of each file, but for times."""
    out = {}
    for path in sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()}):
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(steady(json.loads(data)), sort_keys=True).encode()
        elif path.suffix == ".skops":  # its archive holds the time of writing, and addresses in memory
            from prunopt.forests.skops_files import read_forest

            trees = [tree.tree_ for tree in np.ravel(read_forest(path).estimators_)]
            data = b"".join(a.tobytes() for t in trees for a in (t.feature, t.threshold, t.children_left, t.value))
        out[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return out


def steady(data: Any) -> Any:
    """Return JSON data without what two equal runs may differ in."""
    if isinstance(data, dict):
        return {k: steady(v) for k, v in data.items() if k not in VARY}
    return [steady(v) for v in data] if isinstance(data, list) else data


def killed(command: Command, folder: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """Kill a command at ``times`` random moments, each in a new folder; return how the runs after it ended."""
    rng = np.random.default_rng(seed)
    whole, log, warm = folder / "whole", folder / "log", folder / "warm"
    warm.mkdir()
    whole.mkdir()
    # Once in this process, so that what is forked has compiled and imported all it needs, and a kill hits its work.
    with suppress(SystemExit), open(log, "w") as said, redirect_stdout(said), redirect_stderr(said):
        command.run(command.words(warm))
    _, status = os.waitpid(start(command.run, command.words(whole), log), 0)
    if status:
        raise RuntimeError(f"the undisturbed run failed: {log.read_text()[-2000:]}")
    begun = time.perf_counter()
    again = folder / "again"
    again.mkdir()
    os.waitpid(start(command.run, command.words(again), log), 0)
    spent = time.perf_counter() - begun
    wanted = digests(whole, command.files)
    found: dict[str, Any] = {"files": len(wanted), "seconds": spent, "faults": []}
    found |= dict.fromkeys(("kills", "too late", "resumed"), 0)
    found["repeats"] = digests(again, command.files) == wanted
    for k in range(3 * times):  # a moment after the end kills nothing, and is not counted
        if found["kills"] == times:
            break
        place = folder / f"run-{k}"
        place.mkdir()
        ends = rng.uniform(0, spent)
        child = start(command.run, command.words(place), log)
        time.sleep(ends)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found["kills" if os.WIFSIGNALED(status) else "too late"] += 1
        found["resumed"] += os.WIFSIGNALED(status) and any(p.is_file() for p in place.rglob("*"))
        found["faults"] += [f"after {ends:.3f} s: torn {name}" for name in torn(place)]
        words = command.words(place)
        _, status = os.waitpid(start(command.run, [*words, *command.again], log), 0)
        if status:
            found["faults"].append(f"after {ends:.3f} s: status {status}: {log.read_text()[-300:]}")
        elif (results := digests(place, command.files)) != wanted:
            others = [n for n in {*results, *wanted} if wanted.get(n) != results.get(n)]
            found["faults"].append(f"after {ends:.3f} s: other results in {sorted(others)}")
        left = [p.name for p in place.rglob(".*")]
        found["faults"] += [f"after {ends:.3f} s: left behind {left}"] if left else []
        shutil.rmtree(place)
    return found


def main(names: list[str], times: int, seed: int) -> int:
    """Run the kills of some commands, print what was found, and return how many faults there were."""

    faults = 0
    with tempfile.TemporaryDirectory() as place:
        inputs = Path(place) / "inputs"
        inputs.mkdir()
        write_inputs(inputs)
        for name in names:
            folder = Path(place) / name
            folder.mkdir()
            found = killed(commands(inputs)[name], folder, times, seed)
            faults += len(found["faults"]) + (not found["repeats"])
            print(json.dumps({"command": name, **found}), flush=True)
    return faults


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0) > 0)
