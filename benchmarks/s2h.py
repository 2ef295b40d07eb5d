"""Soft-to-hard distillation: ``python -m benchmarks.s2h digits|reversed|cifar|widths|ablation|cost|tune|table``.

One thread. Every row is written as soon as it is there; a run that was killed goes on. Canvas and noise were set by the
dense and the uniform network; strides and epochs were lowered later, for time. Options of methods were chosen on the
part "choose" with the seed 100, never on the test pictures.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import described, in_fresh_process, interleaved, median
from benchmarks.results import load, store
from benchmarks.s2h_data import Flipped, ResNet, Shifted, cifar, digits, resnet20, separable
from prunopt.networks.cnn.channel_groups import channel_groups
from prunopt.networks.cnn.costs import measure
from prunopt.networks.cnn.profile import Widths
from prunopt.networks.cnn.pruning import prune_cnn
from prunopt.networks.cnn.surgery import remove_channels
from prunopt.networks.soft_mask import Distillation, GatedNetwork, Gates, Training, reestimate, train_soft_mask
from prunopt.networks.soft_mask.adapter import make_masks, offered_widths
from prunopt.networks.soft_mask.s2hpruner import two_cosines
from prunopt.solvers.relaxed.s2h import S2H

ABLATED = 0.35
CIFAR_EPOCHS = 3
BUDGETS, SEEDS, CHOOSING = (0.15, 0.35, 0.55), (0, 1, 2), (100, 101)
EPOCHS, RATE, FULL = 60, 0.05, (16, 32, 48, 64)


def schedule(model: nn.Module, steps: int, rate: float = RATE) -> tuple[Any, Any]:
    """Return optimizer and scheduler, the same for every method."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def fit(model: nn.Module, loader: Any, epochs: int, seed: int, rate: float = RATE) -> nn.Module:
    """Train a network in place, and return it in evaluation mode."""
    optimizer, scheduler = schedule(model, epochs * len(loader), rate)
    model.train()
    for epoch in range(epochs):
        loader.generator.manual_seed(100_000 * seed + epoch)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
    return model.eval()


@torch.no_grad()
def judged(model: nn.Module, part: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy."""
    model.eval()
    out = torch.cat([model(x) for x in part[0].split(250)])
    return float((out.argmax(1) == part[1]).double().mean()), float(F.cross_entropy(out, part[1]))


def uniform_widths(task: Task, budget: float) -> list[int]:
    """Return the greatest widths of one and the same share of what may go within the budget, then what still fits."""
    model = task.fresh(0)
    groups = channel_groups(model, task.example)
    net = GatedNetwork(model, groups, groups.free)
    net.close()
    full = [len(groups.members(g)) for g in groups.free]
    stay = [int(groups.fixed[groups.members(g)].sum()) for g in groups.free]

    def fits(widths: Sequence[int]) -> bool:
        return task.used(remove_channels(copy.deepcopy(model), groups, net.keep(widths))) <= budget

    shared = (
        [f + max(1, int(s * (w - f))) for f, w in zip(stay, full, strict=True)] for s in np.arange(0.01, 1.001, 0.01)
    )
    found = max((widths for widths in shared if fits(widths)), key=sum)
    for g in reversed(range(len(full))):
        wider = [w + (k == g) for k, w in enumerate(found)]
        if wider[g] <= full[g] and fits(wider):
            found = wider
    return found


def macs(model: nn.Module, x: Tensor) -> float:
    """Return the multiply-adds for one picture."""
    return measure(model, x, ("macs",))["macs"]


class Task:
    """A network, its data, and the part that accuracies are taken on."""

    rate, trained = RATE, True

    def __init__(self, part: str) -> None:
        parts = digits()
        self.train, self.part, self.epochs = parts["train"], parts[part], EPOCHS
        self.example = self.part[0][:1]
        self.batches = [x for _ in range(5) for x, _ in self.loader()]

    def loader(self) -> Any:
        """Return batches to train on."""
        return Shifted(*self.train)

    def fresh(self, seed: int) -> nn.Module:
        """Return the network as training finds it."""
        torch.manual_seed(seed)
        return separable()

    @cached_property
    def whole(self) -> float:
        """The dense network's multiply-adds."""
        return macs(self.fresh(0), self.example)

    def used(self, model: nn.Module) -> float:
        """Return the multiply-adds of a network as a share of the dense one's."""
        return macs(model, self.example) / self.whole

    def row(self, model: nn.Module) -> dict[str, Any]:
        """Return accuracy, loss, cost and widths of a plain network."""
        accuracy, loss = judged(model, self.part)
        widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
        return {"accuracy": accuracy, "loss": loss, "macs": self.used(model), "widths": widths}


class Reversed(Task):
    """The same blocks with their widths in the reverse order, which is a poor distribution of the multiply-adds."""

    def fresh(self, seed: int) -> nn.Module:
        """Return the network as training finds it."""
        torch.manual_seed(seed)
        return separable(FULL[::-1])


class Cifar(Task):
    """ResNet-20, trained on all of CIFAR-10 by others, and a slice of it to go on with for a few epochs."""

    rate, trained = 0.02, False

    def __init__(self, part: str) -> None:
        parts = cifar()
        self.train, self.part, self.epochs = parts["train"], parts[part], CIFAR_EPOCHS
        self.example = self.part[0][:1]
        self.batches = [x for x, _ in self.loader()]

    def loader(self) -> Any:
        """Return batches to train on."""
        return Flipped(*self.train)

    def fresh(self, seed: int) -> nn.Module:
        """Return the trained network; seeds are those of shuffles and crops."""
        return resnet20()


# Widths of about 35 % of the multiply-adds: the uniform ones, and others drawn at random.
DRAWN = (
    (8, 16, 25, 34), (9, 16, 22, 31), (8, 16, 27, 30), (7, 16, 27, 38), (11, 20, 12, 17), (8, 16, 23, 39),
    (4, 29, 39, 17), (7, 17, 28, 34), (9, 6, 29, 42),
)  # fmt: skip


def cut_to(task: Task, seed: int, widths: Sequence[int]) -> dict[str, Any]:
    """As `magnitude`, at given widths: what is there to be won by a choice of widths."""
    first = task.epochs // 2
    model = fit(task.fresh(seed), task.loader(), first, seed, task.rate)
    groups = channel_groups(model, task.example)
    net = GatedNetwork(model, groups, groups.free)
    keep = net.keep(widths)
    net.close()
    smaller = remove_channels(copy.deepcopy(model), groups, keep)
    return task.row(fit(smaller, task.loader(), task.epochs - first, seed + 50, task.rate))


def untouched(task: Task, seed: int, _: float, **o: Any) -> dict[str, Any]:
    """The whole network as it is."""
    return task.row(task.fresh(seed))


def dense(task: Task, seed: int, _: float, **o: Any) -> dict[str, Any]:
    """The whole network."""
    return task.row(fit(task.fresh(seed), task.loader(), task.epochs, seed))


def uniform(task: Task, seed: int, budget: float, **o: Any) -> dict[str, Any]:
    """One share of every layer, trained from scratch."""
    torch.manual_seed(seed)
    model = separable(tuple(uniform_widths(task, budget)))
    return task.row(fit(model, task.loader(), task.epochs, seed))


def magnitude(task: Task, seed: int, budget: float, **o: Any) -> dict[str, Any]:
    """The dense network for a part of the epochs, filters with the least norms removed, the rest of the epochs."""
    first = round(o.get("share", 0.5) * task.epochs)
    model = fit(task.fresh(seed), task.loader(), first, seed, task.rate)
    groups = channel_groups(model, task.example)
    if o.get("widths", "uniform") == "uniform":
        net = GatedNetwork(model, groups, groups.free)
        keep = net.keep(uniform_widths(task, budget))
        net.close()
        smaller = remove_channels(copy.deepcopy(model), groups, keep)
    else:
        smaller = prune_cnn(
            model, task.example, budget=f"macs={budget}", importance="magnitude", repair=None,
            widths=Widths(round_to=1, levels=64, least=0.05),
        ).model  # fmt: skip
    before = task.row(reestimate(copy.deepcopy(smaller), task.batches))["accuracy"]
    tuned = fit(smaller, task.loader(), task.epochs - first, seed + 50, o.get("rate", task.rate))
    return task.row(tuned) | {"before_tuning": before}


def soft(task: Task, seed: int, budget: float, **o: Any) -> dict[str, Any]:
    """A run of the solver, by its options: see `METHODS`."""
    model, started = task.fresh(seed), time.perf_counter()
    loader, o = task.loader(), dict(o)
    divisor = o.pop("divisor", None)
    distil = Distillation(**{k: o.pop(k) for k in ("mode", "weight", "straight_through") if k in o})
    kl_temperature = o.pop("kl_temperature", None)
    if kl_temperature is not None:
        distil = Distillation(distil.mode, distil.weight, kl_temperature, distil.straight_through)
    restart = o.pop("restart", True)
    solver = S2H(**o)
    optimizer, scheduler = schedule(model, task.epochs * len(loader), task.rate)
    if restart:
        scheduler = two_cosines(optimizer, task.epochs * len(loader), solver.settle)
    found = train_soft_mask(
        model, loader, budget=f"macs={budget}", training=Training(task.epochs, optimizer, scheduler),
        gates=Gates(divisor=divisor), solver=solver, distillation=distil, seed=seed,
    )  # fmt: skip
    took = time.perf_counter() - started
    row = task.row(reestimate(found.model, task.batches)) | {"seconds": took}
    stats = found.solution.stats
    row["expected"] = [r["expected"] for r in found.groups]
    row["expected_cost"], row["rounding"], row["status"] = (
        stats["expected_cost"], stats["rounding"], found.solution.status.name)  # fmt: skip
    row["history"] = [{k: v if math.isfinite(v) else None for k, v in line.items()} for line in stats["history"][::5]]
    net = GatedNetwork(model, groups := channel_groups(model, task.example), groups.free)
    offered = offered_widths(groups, groups.free, divisor)
    if solver.settle == 0:  # the same network with every width rounded up by itself
        up = [min(w for w in widths if w >= e - 1e-4) for widths, e in zip(offered, row["expected"], strict=True)]
        row["rounded_up"] = task.row(reestimate(net.extract(up), task.batches))
    # The soft network, its batch norms estimated with its own gates, on the same pictures.
    if solver.settle > 0:
        points = [(torch.arange(len(groups.members(g))) < r["after"]).float()
                  for g, r in zip(net.chosen, found.groups, strict=True)]  # fmt: skip
    else:
        points = [
            torch.from_numpy(np.exp(p) @ (np.arange(row[-1])[None, :] < np.array(row)[:, None])).float()
            for p, row in zip(stats["probabilities"], offered, strict=True)
        ]
    net.open(points)
    reestimate(model, task.batches)
    row["soft_accuracy"], row["soft_loss"] = judged(model, task.part)
    net.close()
    compared = row.get("rounded_up", row)
    row["gap"] = abs(row["loss"] - row["soft_loss"])
    row["gap_rounded_up"] = abs(compared["loss"] - row["soft_loss"])
    return row


METHODS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "dense": (dense, {}),
    "uniform width from scratch": (uniform, {}),
    "magnitude + fine-tuning": (magnitude, {}),
    "soft mask only": (soft, {"mode": "none", "settle": 0.0, "anneal": 0.4, "scale": 0.5, "project": False}),
    "s2h": (soft, {"settle": 0.0, "anneal": 0.4, "scale": 0.5, "project": False}),
    "s2h + exact widths": (soft, {}),
}
CIFAR: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "dense": (untouched, {}),
    "magnitude + fine-tuning": (magnitude, {"share": 0.0}),
    "s2h + exact widths": METHODS["s2h + exact widths"],
    "soft mask only": METHODS["soft mask only"],
    "s2h": METHODS["s2h"],
}
REVERSED: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "dense": (dense, {}),
    "magnitude + fine-tuning": (magnitude, {}),
    "magnitude of all layers + fine-tuning": (magnitude, {"widths": "global"}),
    "s2h + exact widths": METHODS["s2h + exact widths"],
    "soft mask only": METHODS["soft mask only"],
    "uniform width from scratch": METHODS["uniform width from scratch"],
}
ABLATIONS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "coupled": (soft, {"mode": "coupled", "settle": 0.0, "anneal": 0.4, "scale": 0.5, "project": False}),
    "reversed": (soft, {"mode": "reversed", "settle": 0.0, "anneal": 0.4, "scale": 0.5, "project": False}),
}


def rows(name: str, wanted: Sequence[tuple[str, float, int]], run: Callable[[str, float, int], Any]) -> dict[str, Any]:
    """Run what is not on file yet, and file it row by row."""
    data: dict[str, Any] = load("s2h", name, None) or {"machine": described("torch"), "rows": {}}
    for method, budget, seed in wanted:
        key = f"{method}/{budget}/{seed}"
        if key in data["rows"]:
            continue
        started = time.perf_counter()
        data["rows"][key] = run(method, budget, seed) | {"wall": time.perf_counter() - started}
        row = data["rows"][key]
        print(key, round(row["accuracy"], 4), round(row["macs"], 4), row["widths"], round(row["wall"], 1), flush=True)
        store("s2h", {name: data})
    return data


def tune(options: str, budgets: Sequence[float] = (0.15,)) -> None:
    """Run one method with other options on the part that options are chosen on: ``tune 'METHOD {"rate": 0.1}'``."""
    name, _, text = options.partition("{")
    name, changed = name.strip(), json.loads("{" + text) if text else {}
    function, fixed = (METHODS | ABLATIONS)[name]
    task = Task("choose")
    label = name + (" " + json.dumps(changed, sort_keys=True) if changed else "")
    rows("choosing", [(label, b, s) for b in budgets for s in CHOOSING],
         lambda _, b, s: function(task, s, b, **(fixed | changed)))  # fmt: skip


def steps_of(name: str, budget: str = "macs=0.35") -> dict[str, Callable[[], Any]]:
    """Return a training step of the dense network, and the three kinds of steps of ``s2h``, at a budget's widths."""
    torch.manual_seed(0)
    x, y = torch.randn(50, *((1, 12, 12) if name == "digits" else (3, 32, 32))), torch.arange(50) % 10
    plain = separable() if name == "digits" else ResNet()
    model = copy.deepcopy(plain)
    masks = make_masks(model, x[:1], budget, solver=S2H(learning_rate=0.05))
    zeros = [torch.zeros_like(z) for z in masks.logits.soft()]
    for _ in range(200):  # the budget alone, until it holds
        masks.logits.update(zeros, zeros, None)
    soft, hard = masks.points()
    optimizers = [schedule(m, 1000)[0] for m in (plain, model)]

    def dense_step() -> None:
        optimizers[0].zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimizers[0].step()

    def step(which: str) -> None:
        masks.steps += 1
        optimizers[1].zero_grad()
        if which == "searching":
            masks.network.rerank()
        first = hard if which == "settled" else soft
        found = masks.teach(x, lambda out: F.cross_entropy(out, y), first, hard, masks=which == "searching")
        optimizers[1].step()
        if which == "searching":
            masks.logits.velocity = [torch.zeros_like(v) for v in masks.logits.velocity]
            held = [u.clone() for u in masks.logits.logits]
            masks.logits.update(found.task, found.distillation, 0.5)
            masks.logits.logits = held

    def pair() -> None:  # masks are distilled at every other step
        step("searching")
        step("searching")

    return {
        "dense": dense_step, "searching, two steps": pair, "moving": lambda: step("moving"),
        "settled": lambda: step("settled"),
    }  # fmt: skip


def memory(name: str, kind: str) -> int:
    """Return the peak of resident memory of a few steps of one kind, in a process that does nothing else."""
    torch.set_num_threads(1)
    job = steps_of(name)[kind]
    for _ in range(3):
        job()
    status = Path("/proc/self/status").read_text()  # getrusage would give the parent's peak where that was greater
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def cost() -> None:
    """Time steps in turn, and take peaks of memory."""
    out: dict[str, Any] = load("s2h", "cost", None) or {"machine": described("torch")}
    for name, runs in (("digits", 21), ("resnet20", 3)):
        if name in out:
            continue
        taken = {k: median(v) for k, v in interleaved(steps_of(name), runs).items()}
        taken["searching"] = taken.pop("searching, two steps") / 2
        solver = S2H()
        search, line = 1 - solver.settle, solver.settle * solver.line
        mean = search * taken["searching"] + line * taken["moving"] + (1 - search - line) * taken["settled"]
        peaks = {k: in_fresh_process("benchmarks.s2h", "memory", name, k) for k in ("dense", "searching, two steps")}
        out[name] = {"seconds": taken, "ratio": {k: v / taken["dense"] for k, v in taken.items()}, "peak_bytes": peaks,
                     "mean_ratio": mean / taken["dense"]}  # fmt: skip
        print(name, out[name], flush=True)
        store("s2h", {"cost": out})


def _mean(values: Sequence[float]) -> tuple[float, float]:
    spread = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(np.mean(values)), spread


def table() -> None:
    """Print accuracy, cost and gap of what is on file, mean and standard error over the seeds."""
    parts = [f"{task}_{round(100 * b)}" for task in ("digits", "reversed", "cifar") for b in BUDGETS]
    held = load("s2h")
    for part in (p for p in [*parts, "ablation"] if p in held):
        found: dict[str, list[dict[str, Any]]] = {}
        for key, row in held[part]["rows"].items():
            found.setdefault(key.split("/")[0], []).append(row)
            if "rounded_up" in row:
                up = row["rounded_up"] | {"gap": row["gap_rounded_up"], "soft_loss": row["soft_loss"]}
                found.setdefault(f"{key.split('/')[0]}, rounded up", []).append(up)
        print(f"\ns2h_{part}\n\n| method | seeds | accuracy | loss | MACs | gap |\n|---|---|---|---|---|---|")
        for method, lines in found.items():
            (accuracy, error), (loss, _) = (_mean([r[k] for r in lines]) for k in ("accuracy", "loss"))
            used = ", ".join(f"{r['macs']:.3f}" for r in lines)
            gap = f"{_mean([r['gap'] for r in lines])[0]:.2f}" if "gap" in lines[0] else ""
            print(f"| {method} | {len(lines)} | {accuracy:.3f} +- {error:.3f} | {loss:.3f} | {used} | {gap} |")


def main(arguments: Sequence[str]) -> None:
    """Run one part."""
    torch.set_num_threads(1)
    if arguments[0] == "digits":
        task, only = Task("test"), json.loads(arguments[2]) if len(arguments) > 2 else [list(METHODS), list(SEEDS)]
        for budget in [float(arguments[1])] if len(arguments) > 1 else BUDGETS:
            wanted = [(m, budget, s) for s in only[1] for m in only[0] if m != "dense" or budget == BUDGETS[-1]]
            rows(f"digits_{round(100 * budget)}", wanted, lambda m, b, s: METHODS[m][0](task, s, b, **METHODS[m][1]))
    elif arguments[0] in ("cifar", "reversed"):
        methods, one = (CIFAR, Cifar("test")) if arguments[0] == "cifar" else (REVERSED, Reversed("test"))
        only = json.loads(arguments[1]) if len(arguments) > 1 else list(methods)
        for seed, budget in itertools.product(SEEDS, BUDGETS):
            wanted = [
                (m, budget, seed)
                for m in only
                if m != "dense" or (budget == BUDGETS[-1] and (seed == 0 or one.trained))
            ]
            name = f"{arguments[0]}_{round(100 * budget)}"
            rows(name, wanted, lambda m, b, s: methods[m][0](one, s, b, **methods[m][1]))
    elif arguments[0] == "widths":
        task = Task("choose")
        drawn = {" ".join(map(str, w)): w for w in DRAWN}
        rows("widths", [(k, ABLATED, s) for s in CHOOSING for k in drawn], lambda m, b, s: cut_to(task, s, drawn[m]))
    elif arguments[0] == "table":
        table()
    elif arguments[0] == "cost":
        cost()
    elif arguments[0] == "ablation":
        task = Task("test")
        wanted = [(m, ABLATED, s) for s in SEEDS for m in ABLATIONS]
        rows("ablation", wanted, lambda m, b, s: ABLATIONS[m][0](task, s, b, **ABLATIONS[m][1]))
    elif arguments[0] == "tune":
        for options in arguments[2:]:
            tune(options, [float(b) for b in arguments[1].split(",")])


if __name__ == "__main__":
    main(sys.argv[1:])
