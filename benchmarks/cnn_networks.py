"""Which channels are found to be removable: beside Torch-Pruning, on its own test networks and on those of our zoo.

``python -m benchmarks.cnn_networks FOLDER [BEGINNING]|table``: FOLDER is ``tests`` of a checkout of Torch-Pruning, of
which nothing is copied; in the place of torchvision's networks stand small ones of the same families. Only networks
whose names start so are run, the others stay as they are on file; ``table`` prints it. Channels are counted as outputs
of linear layers and of convolutions that are not depthwise, the network's own outputs left alone. Each network is then
pruned to 60 % of its multiply-adds, which compares it with the masked one to 1e-5.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cnn_families import FAMILIES
from benchmarks.machine import described
from benchmarks.results import load, store
from prunopt.networks.cnn import Widths, prune_cnn
from prunopt.networks.cnn.channel_groups import channel_groups
from prunopt.networks.cnn.watching import CONVOLUTIONS
from tests.networks.cnn.zoo import ZOO

THEIRS: dict[str, tuple[str, tuple[int, ...], Any]] = {
    "test_cascaded_concat": ("Net", (10,), (1, 10, 7, 7)),
    "test_concat": ("widedeep", (32,), (1, 32)),
    "test_concat_split": ("Net", (10,), (1, 10, 7, 7)),
    "test_customized_layer": ("FullyConnectedNet", (128, 10, 256), (1, 128)),
    "test_dependency_lenet": ("Model", (), (1, 1, 28, 28)),
    "test_fully_connected_layers": ("FullyConnectedNet", (128, 10, 256), (1, 128)),
    "test_multiple_inputs_and_outputs": ("FullyConnectedNet", ([128, 64], [32, 32]), ((1, 128), (1, 64))),  # type: ignore[dict-item]
    "test_non_feature_dim_cat": ("Net", (512,), (1, 512, 7, 7)),
    "test_reshape": ("Net", (), (1, 512)),
    "test_single_channel_output": ("Model", (), (1, 3, 224, 224)),
    "test_split": ("Net", (128,), (1, 128, 7, 7)),
    "test_unused_parameters": ("FullyConnectedNet", (128, 10, 256), (1, 128)),
}


def networks(folder: Path) -> Iterator[tuple[str, Callable[[], tuple[nn.Module, Any]]]]:
    """Yield names and makers of networks with an example input: theirs, then ours."""
    sys.path.insert(0, str(folder))
    for name in ("torchvision", "torchvision.models"):
        stub: Any = types.ModuleType(name)
        stub.__getattr__ = lambda attribute: None
        stub.__path__ = []
        sys.modules[name] = stub
    for file, (kind, args, shape) in THEIRS.items():

        def make(file: str = file, kind: str = kind, args: Any = args, shape: Any = shape) -> tuple[nn.Module, Any]:
            model = getattr(importlib.import_module(file), kind)(*args).eval()
            for p in model.parameters():  # some are left as memory happens to be
                nn.init.uniform_(p, -0.1, 0.1)
            several = isinstance(shape[0], tuple)
            return model, tuple(torch.randn(s) for s in shape) if several else torch.randn(shape)

        yield file, make
    for name, family in FAMILIES.items():
        yield f"family, {name}", lambda family=family: (family().eval(), torch.randn(1, 3, 64, 64))  # type: ignore[misc]
    for name, made in ZOO.items():
        yield f"zoo, {name}", made


def of_the_peer(model: nn.Module, example: Any) -> int | str:
    """Return how many channels Torch-Pruning would let go, or its error."""
    import torch_pruning as tp

    try:
        graph = tp.DependencyGraph().build_dependency(model, example)
        names = {module: name for name, module in model.named_modules()}
        ends = _ends(model, example)
        out = set()
        for group in graph.get_all_groups():
            found = {
                (names[d.target.module], int(i))
                for d, idxs in group
                if d.handler.__name__ == "prune_out_channels" and _mixes(d.target.module)
                for i in idxs
            }
            out |= set() if {name for name, _ in found} & ends else found
        return len(out)
    except Exception as error:  # whatever its tracer ends in
        return type(error).__name__


def _mixes(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, CONVOLUTIONS) and (module.groups == 1 or module.groups < module.in_channels)
    )


def _ends(model: nn.Module, example: Any) -> set[str]:
    """Return the layers whose features are an output of the network: of these nothing is to go."""
    groups = channel_groups(model, example)
    fixed = set(groups.group[groups.fixed].tolist())
    last = [s.name for s in groups.slots if s.consumes][-1:]
    return {s.name for s in groups.slots if s.consumes and set(groups.group[s.outs].tolist()) <= fixed} & set(last)


def of_ours(model: nn.Module, example: Any) -> tuple[int, tuple[str, ...]]:
    """Return how many channels may go, and what is pinned."""
    groups = channel_groups(model, example)
    return sum(int((~groups.fixed[s.outs]).sum()) for s in groups.slots if s.consumes), groups.pinned


def main() -> None:
    """Run what is asked for."""
    if sys.argv[1:] == ["table"]:
        table()
        return
    warnings.simplefilter("ignore")
    beginning = "".join(sys.argv[2:])
    rows: dict[str, Any] = load("cnn_networks", "rows", {})
    for name, make in networks(Path(sys.argv[1])):
        if not name.startswith(beginning):
            continue
        torch.manual_seed(0)
        model, example = make()
        row: dict[str, Any] = {}
        step = 4 if name.startswith("family") else 1  # the families are wider: fewer widths to choose from
        try:
            row["ours"], row["pinned"] = of_ours(model, example)
            result = prune_cnn(
                model, example, budget="macs=0.6", importance="magnitude", widths=Widths(round_to=step), repair=None
            )
            row["ended"] = f"right, {result.used / result.total:.0%} of the multiply-adds"
        except ValueError as error:
            row["ended"] = f"refused: {error}"
        row["peer"] = of_the_peer(*make())
        rows[name] = row
        print(name, row, flush=True)
        store("cnn_networks", {"about": described("torch", "torch-pruning"), "rows": rows})


def table() -> None:
    """Print their networks one by one, ours in one line."""
    rows = load("cnn_networks", "rows")
    print("| network | channels, Torch-Pruning | channels, prunopt | ended |\n|---|---|---|---|")
    for name, row in rows.items():
        if not name.startswith("zoo"):
            whole = f"; whole: {', '.join(row['pinned'])}" if row.get("pinned") else ""
            shown = name.removeprefix("test_").removeprefix("family, ")
            print(f"| {shown} | {row['peer']} | {row.get('ours', '')} | {row['ended']}{whole} |")
    zoo = {k: r for k, r in rows.items() if k.startswith("zoo")}
    both = [r for r in zoo.values() if isinstance(r["peer"], int) and r["peer"] and "ours" in r]
    failed = sum(not isinstance(r["peer"], int) for r in zoo.values())
    enough = sum(r["ours"] >= 0.8 * r["peer"] for r in both)
    right = sum(r["ended"].startswith("right") for r in zoo.values())
    print(f"\n{len(zoo)} networks of our zoo: {right} right, the others refused; errors of Torch-Pruning: {failed}.")
    print(f"Of {len(both)} on which both find channels, ours frees 80 % of the peer's or more on {enough}.")


if __name__ == "__main__":
    main()
