"""Damaged and hostile files: refused with a message, never a traceback, an import of code, or a full memory."""

from __future__ import annotations

import ast
import io
import json
import tracemalloc
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import prunopt
import prunopt as po
from prunopt.cli import app
from prunopt.forms import Closure, load_form
from prunopt.forms.storage import read_arrays
from tests.support.files import Reader, corpus, mutated, outcome, readers

TORCH = all(find_spec(name) is not None for name in ("torch", "safetensors", "transformers"))
READERS = {reader.name: reader for reader in readers(torch=TORCH)}
ROOT = Path(prunopt.__file__).parent


def fuzz(reader: Reader, folder: Path, times: int) -> dict[str, int]:
    """How often mutated files ended in what."""
    file = folder / reader.file
    reader.write(file)
    data, rng = file.read_bytes(), np.random.default_rng(zlib.crc32(reader.name.encode()))
    assert outcome(reader, file) == "read", "the sample itself is refused"
    ends: dict[str, int] = {}
    for _ in range(times):
        kind, hostile = mutated(data, rng)
        file.write_bytes(hostile)
        end = outcome(reader, file)
        end = end if end in ("read", "refused") else f"{kind}: {end}"
        ends[end] = ends.get(end, 0) + 1
    return ends


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_mutations_of_a_valid_file_are_read_or_refused(name: str, tmp_path: Path) -> None:
    few = name in ("mps", "lp")  # each is parsed in a process of its own
    ends = fuzz(READERS[name], tmp_path, 6 if few else 30)
    assert set(ends) <= {"read", "refused"}, ends
    assert few or ends["refused"] >= 3


def test_a_reader_that_lets_other_errors_through_is_noticed(tmp_path: Path) -> None:
    careless = Reader("careless", "c.json", READERS["costs"].write, lambda p: json.loads(p.read_text())["costs"]["age"])
    assert set(fuzz(careless, tmp_path, 60)) - {"read", "refused"}


def member(shape: str, dtype: str = "<f8", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize(
    "profit",
    [member("(68719476736,)"), member("(1099511627776, 1099511627776)"), member("(-1,)"), member("(2,)", "|O")],
    ids=["half a terabyte", "overflow", "negative", "objects"],
)
def test_a_form_that_lies_about_its_size_costs_no_memory(profit: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    po.save_form(Closure.of([1.0]), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (parts | {"profit.npy": profit}).items():
            archive.writestr(name, data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a form saved by"):
            load_form(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", bytes(2**20))
    whole = bytearray(path.read_bytes())
    at = whole.rindex(b"PK\x01\x02") + 24  # what the directory says of the size when unpacked
    whole[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match="more than 2147483648"):
        read_arrays(path, 2**31)
    with pytest.raises(ValueError, match="not a form"):
        load_form(path)


@pytest.mark.skipif(not TORCH, reason="needs torch")
def test_headers_of_safetensors_that_lie_are_refused(tmp_path: Path) -> None:
    from prunopt.networks.lottery.tickets import read_network
    from prunopt.networks.transformers.learned_masks import load_masks

    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    for header in (b'{"a":' + json.dumps(entry).encode() + b"}", b"{" * 1000, b""):
        for length in (len(header), 2**60):
            file = tmp_path / "a.safetensors"
            file.write_bytes(length.to_bytes(8, "little") + header)
            for read in (load_masks, read_network):
                with pytest.raises(ValueError, match=r"a\.safetensors"):
                    read(file)


@pytest.mark.skipif(not TORCH, reason="needs torch")
def test_a_configuration_that_asks_for_too_much_is_refused_before_it_is_built(tmp_path: Path) -> None:
    from prunopt.networks.transformers.checkpoints import load

    reader = READERS["pruned model, config.json"]
    file = tmp_path / reader.file
    reader.write(file)
    whole = json.loads(file.read_text())
    for name, said in (("intermediate_size", "size must be about"), ("num_hidden_layers", "be at most the tensors")):
        file.write_text(json.dumps({**whole, name: 10**9}))
        with pytest.raises(ValueError, match=said):
            load(tmp_path)


def test_a_model_that_crashes_its_parser_is_refused() -> None:
    """Found by fuzzing: HiGHS 1.15 ends in a segmentation fault on this file, which once took Python with it."""
    from prunopt.forms.mip_model import read_model

    with pytest.raises(ValueError, match=r"crashes-a-parser\.mps: cannot be read as a model"):
        read_model(Path(__file__).parent / "corpus" / "crashes-a-parser.mps")


def test_a_tree_that_leads_out_of_its_arrays_is_refused() -> None:
    """scikit-learn would follow it out of its memory."""
    from types import SimpleNamespace

    from prunopt.forests.skops_files import _check_tree

    def tree(**other: object) -> SimpleNamespace:
        links = {"children_left": np.array([1, -1, -1]), "children_right": np.array([2, -1, -1])}
        whole = {"node_count": 3, "capacity": 3, "n_features": 2, "feature": np.array([1, -2, -2]), **links}
        return SimpleNamespace(**{**whole, **other})

    _check_tree(tree(), 2)
    for wrong in (
        {"children_left": np.array([3, -1, -1])},
        {"children_right": np.array([0, -1, -1])},
        {"children_right": np.array([-1, -1, -1])},
        {"feature": np.array([2, -2, -2])},
        {"n_features": 3},
        {"node_count": 4},
    ):
        with pytest.raises(ValueError, match="tree"):
            _check_tree(tree(**wrong), 2)


def test_names_in_manifests_do_not_leave_their_folder(tmp_path: Path) -> None:
    from prunopt.forms.closure._multipliers_on_disk import MultipliersOnDisk

    good = {"format": "prunopt-multipliers-1", "closure": "c", "price": "1", "denominator": "1", "dtype": "int32"}
    from prunopt.forms.closure import _multipliers_on_disk as multipliers_on_disk

    good["format"] = multipliers_on_disk.FORMAT
    for name in ("../../etc/passwd", "/etc/passwd", "a/../../b.npy", "..", "\x00"):
        (tmp_path / multipliers_on_disk.MANIFEST).write_text(json.dumps({**good, "sizes": [1], "files": [name]}))
        with pytest.raises(ValueError, match="list of files is damaged"):
            MultipliersOnDisk.open(tmp_path)


def sources() -> list[Path]:
    return [p for p in ROOT.rglob("*.py") if "__pycache__" not in p.parts]


def unpickling(tree: ast.AST) -> list[str]:
    """Imports of modules that unpickle, and calls that may."""
    found = []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
        bad = ("pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib.load", "joblib.dump")
        found += [n for n in names if n.split(".")[0] in bad or n in bad]
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            called in ("torch.load", "read_weights", "load_state_dict_from_file")
            and given.get("weights_only") != "True"
        ):
            found.append(ast.unparse(node))
        if called == "np.load" and given.get("allow_pickle", "False") != "False":
            found.append(ast.unparse(node))
        if called in ("pd.read_pickle", "joblib.load", "eval", "exec"):
            found.append(ast.unparse(node))
        if "trust_remote_code" in given and given["trust_remote_code"] != "False":
            found.append(ast.unparse(node))
    return found


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    found = {str(p.relative_to(ROOT)): bad for p in sources() if (bad := unpickling(ast.parse(p.read_text("utf-8"))))}
    assert len(sources()) > 100
    assert not found


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from joblib import load", "torch.load('a')", "np.load('a', allow_pickle=True)", "eval('1')"],
)
def test_the_search_for_unpickling_finds_it(text: str) -> None:
    assert unpickling(ast.parse(text))


@pytest.mark.parametrize("command", ["solve", "forest", "evaluate", "verify", "prune", "report"])
def test_at_the_command_line_damage_is_one_line(command: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / {"solve": "a.npz", "forest": "a.csv"}.get(command, "prunopt.json")
    file.write_bytes(b'{"format": 1, \x00\xff[[[')
    text = tmp_path / "t.txt"
    text.write_text("some words " * 40)
    given = {
        "solve": ["solve", str(file)],
        "forest": ["forest", "--data", str(file), "--target", "a", "--out", str(tmp_path / "o")],
        "evaluate": ["evaluate", str(tmp_path), "--text", str(text)],
        "verify": ["verify", str(tmp_path)],
        "prune": [
            "prune",
            str(tmp_path),
            "--calibration",
            str(text),
            "--sparsity",
            "0.2",
            "--out",
            str(tmp_path / "o"),
        ],
        "report": ["report", str(tmp_path)],
    }[command]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("prunopt: ")
    assert "Traceback" not in result.output


def test_mutations_differ_and_repeat() -> None:
    data = json.dumps({"a": [1, 2.5], "b": {"c": "text"}}).encode()
    twice = [[mutated(data, np.random.default_rng(k))[1] for k in range(40)] for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(set(twice[0])) > 25
    wrapped = io.BytesIO()
    with zipfile.ZipFile(wrapped, "w") as archive:
        archive.writestr("a.json", data)
    assert any(mutated(wrapped.getvalue(), np.random.default_rng(k))[0].endswith("inside") for k in range(10))


CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in READERS if corpus(CORPUS, READERS[n])])
def test_files_that_once_ended_in_a_new_way_are_read_or_refused(name: str, tmp_path: Path) -> None:
    """The corpus that `benchmarks/trust.py files` keeps: small files, each refused with another message."""
    reader = READERS[name]
    reader.write(tmp_path / reader.file)
    for kept in corpus(CORPUS, reader):
        (tmp_path / reader.file).write_bytes(kept.read_bytes())
        assert outcome(reader, tmp_path / reader.file) in ("read", "refused"), kept.name


def test_the_corpus_is_small_and_belongs_to_readers() -> None:
    files = [p for p in CORPUS.rglob("*") if p.is_file()]
    assert len(files) >= 10
    assert sum(p.stat().st_size for p in files) < 400_000
    if TORCH:
        known = {p for reader in READERS.values() for p in corpus(CORPUS, reader)}
        assert {p for p in files if p.parent != CORPUS} <= known
