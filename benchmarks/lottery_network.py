"""Lottery tickets of a trained digits network: accuracy, certificates, over-parameterisation, and three open problems.

    python -m benchmarks.lottery_network             # everything, about 20 minutes on one core
    python -m benchmarks.lottery_network accuracy    # one part: accuracy, smallest, neurons, tolerances, data

The target is trained here: 64-32-10, ReLU, biases, on 60 % of scikit-learn's digits; pictures have the norm 1 and are
never negative.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

import prunopt as po
from benchmarks.lottery_edge_popup import edge_popup
from benchmarks.lottery_shared_neurons import fewest_neurons
from benchmarks.lottery_tolerances import fronts_of, spread_tolerances, uniform_tolerance
from benchmarks.machine import described, seconds
from benchmarks.results import store
from prunopt.networks.lottery import (
    data_masks,
    inputs_in_ball,
    load_digits,
    measured_error,
    train_digits,
)
from prunopt.problems import LotteryTicket
from prunopt.problems.lottery.sampling import products
from prunopt.solvers.subset_sum.golden_ratio import GoldenRatio
from prunopt.solvers.subset_sum.subset_sum_mitm import greedy_subsets, smallest_subsets

torch.set_num_threads(1)
DIGITS = load_digits()
TARGET = train_digits(DIGITS)
EPSILONS = (1e-2, 1e-3, 1e-4)
SEEDS = 3


def task_of(epsilon: float, **options: Any) -> LotteryTicket:
    """A ticket of the digits network."""
    return LotteryTicket(TARGET, epsilon, rescale=True, nonnegative_input=True, **options)


def accuracy() -> dict[str, Any]:
    """At the theory's width: accuracy, kept, certificate and measured error; and weights out of reach at 42 neurons."""
    inputs = torch.cat([inputs_in_ball((64,), 10_000, nonnegative=True), DIGITS.train.double(), DIGITS.test.double()])
    rows = []
    for construction in ("subset-sum", "golden-ratio"):
        for epsilon in EPSILONS:
            task, out = task_of(epsilon, construction=construction), {}
            taken = seconds(lambda t=task, o=out: o.update(x=po.solve(t)))
            solution = out["x"]
            po.verify(task, solution)
            ticket = task.ticket(solution.value)
            measured = measured_error(TARGET, ticket.module, inputs)
            climbed = measured_error(TARGET, ticket.module, inputs, climbs=200, sign=True)
            rows.append(
                {
                    "construction": construction,
                    "epsilon": epsilon,
                    "status": solution.status.name,
                    "neurons of an input": task.pairs[0].width,
                    "seconds": taken,
                    "target accuracy": DIGITS.accuracy(TARGET),
                    "accuracy": DIGITS.accuracy(ticket.module),
                    **ticket.counts,
                    "kept per target weight": ticket.counts["kept_second"] / ticket.counts["target_weights"],
                    "largest weight error": ticket.certificate.largest_weight_error,
                    "bound": ticket.certificate.error_bound,
                    "a-priori bound": ticket.certificate.a_priori_bound,
                    "measured on inputs": len(inputs),
                    "measured error": measured,
                    "measured after gradient ascent": climbed,
                }
            )
            if construction == "golden-ratio":
                rows[-1]["kept by the paper's decomposition"] = po.solve(task, GoldenRatio(repair=False)).objective
            print(rows[-1], flush=True)
    narrow = []
    for epsilon in EPSILONS:
        task = task_of(epsilon, width=42)
        found = smallest_subsets(task.reduce().form)
        missed = found.impossible
        worst = missed[np.argsort(-found.error[missed])]
        narrow.append(
            {
                "epsilon": epsilon,
                "neurons of an input": 42,
                "infeasible": len(missed),
                "named, worst first": [
                    {"weight": task.weight_name(int(i)), "no nearer than": float(found.error[i])} for i in worst
                ],
            }
        )
    return {"rows": rows, "narrower than the theory": narrow}


def smallest() -> dict[str, Any]:
    """Accuracy against the neurons of an input, by method, means over seeds of the random network."""
    goal = DIGITS.accuracy(TARGET)
    rows: list[dict[str, Any]] = []
    for width in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192):
        found: dict[str, list[tuple[float, int]]] = {}
        for seed in range(SEEDS):
            done = {name: r for name, r in _best(rows).items() if r >= goal}
            if "golden-ratio (paper)" not in done:
                paper = task_of(1e-3, construction="golden-ratio", seed=seed, width=width)
                form = paper.reduce().form
                mask, _ = greedy_subsets(form, np.arange(form.n_targets))
                found.setdefault("golden-ratio (paper)", []).append(_score(paper, paper.reduce().back(mask)))
            task = task_of(1e-3, seed=seed, width=width)
            form = task.reduce().form
            if "subset sum, least error" not in done and form.n_candidates <= 24:
                mask = smallest_subsets(form, objective="error").kept
                found.setdefault("subset sum, least error", []).append(_score(task, task.reduce().back(mask)))
            if "subset sums fitted to data (ours)" not in done and width <= 16:
                fit = data_masks(task, DIGITS.train, penalty=0.0, largest=8)
                found.setdefault("subset sums fitted to data (ours)", []).append(_score(task, fit.masks))
            if width <= 16:
                for keep in (0.3, 0.5):
                    if f"edge-popup on the labels, keeps {keep:g}" in done:
                        continue
                    popped = edge_popup(
                        task.random_network(), DIGITS.train, DIGITS.train_labels, keep=keep, epochs=30, seed=seed
                    )
                    name = f"edge-popup on the labels, keeps {keep:g}"
                    found.setdefault(name, []).append((DIGITS.accuracy(popped.module), popped.kept))
        row: dict[str, Any] = {"neurons of an input": width}
        row["sampled"] = sum(pair.n_sampled for pair in task.pairs)
        for name, scores in found.items():
            row[name] = {
                "accuracy": float(np.mean([s for s, _ in scores])),
                "kept": int(np.mean([k for _, k in scores])),
            }
        rows.append(row)
        print(row, flush=True)
    answer: dict[str, Any] = {"target accuracy": goal, "seeds": SEEDS, "rows": rows}
    for short in (0.005, 0.0):
        least: dict[str, Any] = {}
        for row in rows:
            for name, cell in row.items():
                if isinstance(cell, dict) and cell["accuracy"] >= goal - short and name not in least:
                    least[name] = {"neurons of an input": row["neurons of an input"], "sampled": row["sampled"], **cell}
        answer[f"smallest within {100 * short:g} points"] = least
    return answer


def _best(rows: list[dict[str, Any]]) -> dict[str, float]:
    best: dict[str, float] = {}
    for row in rows:
        for name, cell in row.items():
            if isinstance(cell, dict):
                best[name] = max(best.get(name, 0.0), cell["accuracy"])
    return best


def _score(task: LotteryTicket, masks: Any) -> tuple[float, int]:
    ticket = task.ticket(masks)
    return DIGITS.accuracy(ticket.module), ticket.counts["kept"]


def neurons(epsilon: float = 0.03, width: int = 36, most: int = 18) -> dict[str, Any]:
    """Fewest neurons shared by all outputs of an input (proven), against the fewest weights of each output."""
    rows = []
    for seed in range(3):
        task = task_of(epsilon, seed=seed, width=width)
        counts = {"plain neurons": 0, "plain weights": 0, "shared neurons": 0, "shared weights": 0, "pools": 0}
        counts["pools left out (infeasible)"] = 0
        masks = {name: [np.zeros(p.second.shape, np.bool_) for p in task.pairs] for name in ("plain", "shared")}
        start_of = {"taken": 0.0}
        for block in task.blocks:
            pair = task.pairs[block.pair]
            candidates = products(pair, block)[:, :, :most]
            for tap in range(candidates.shape[1]):
                form = po.forms.SubsetSum(pair.layer.weights[:, tap], candidates[:, tap], epsilon)
                plain = smallest_subsets(form)
                if not plain.reached.all():
                    counts["pools left out (infeasible)"] += 1
                    continue
                out: dict[str, Any] = {}
                start_of["taken"] += seconds(
                    lambda f=form, o=out: o.update(x=fewest_neurons(f.targets, f.candidates, epsilon))
                )
                shared = out["x"]
                counts["pools"] += 1
                counts["plain neurons"] += int(plain.kept.any(axis=0).sum())
                counts["plain weights"] += int(plain.kept.sum())
                counts["shared neurons"] += shared.n_neurons
                counts["shared weights"] += int(shared.kept.sum())
                for name, kept in (("plain", plain.kept), ("shared", shared.kept)):
                    index = block.index[:, tap, : kept.shape[1]]
                    at = np.nonzero(kept & (index >= 0))
                    masks[name][block.pair][at[0], tap, index[at]] = True
        row: dict[str, Any] = {"seed": seed, "seconds": start_of["taken"], **counts}
        if not counts["pools left out (infeasible)"]:
            inputs = inputs_in_ball((64,), 2000, nonnegative=True)
            for name, mask in masks.items():
                ticket = task.ticket(tuple(mask))
                row[f"{name} measured error"] = measured_error(TARGET, ticket.module, inputs)
                row[f"{name} accuracy"] = DIGITS.accuracy(ticket.module)
                row[f"{name} bound"] = ticket.certificate.error_bound
        rows.append(row)
        print(row, flush=True)
    return {"epsilon": epsilon, "candidates of a pool": most, "rows": rows}


def tolerances() -> dict[str, Any]:
    """One tolerance for all weights against tolerances spread by prices: kept weights at the same certificate."""
    task = task_of(1e-3, width=56)
    fronts, rows = fronts_of(task, 6), []
    inputs = torch.cat([inputs_in_ball((64,), 10_000, nonnegative=True), DIGITS.test.double()])
    for bound in (4.0, 2.0, 1.0, 0.5, 0.2, 0.1):
        row: dict[str, Any] = {"certificate at most": bound}
        for name, find in (("one tolerance", uniform_tolerance), ("spread", spread_tolerances)):
            found = find(task, bound, fronts=fronts)
            ticket = task.ticket(found.masks)
            row[name] = {
                "kept": found.kept,
                "certificate": found.certificate.error_bound,
                "measured error": measured_error(TARGET, ticket.module, inputs),
                "accuracy": DIGITS.accuracy(ticket.module),
            }
        rows.append(row)
        print(row, flush=True)
    return {"neurons of an input": 56, "rows": rows}


def data() -> dict[str, Any]:
    """Residuals on data against residuals of each weight: kept weights at the same output error on test pictures."""
    task = task_of(1e-3, width=24)
    fronts = fronts_of(task, 6)

    def measure(masks: Any) -> dict[str, Any]:
        module = task.ticket(masks).module
        with torch.no_grad():
            far = (TARGET(DIGITS.test) - module(DIGITS.test)).norm(dim=1)
        rms = float((far**2).mean().sqrt())
        return {"kept": int(task.objective(masks)), "rms output error": rms, "accuracy": DIGITS.accuracy(module)}

    plain = []
    for epsilon in np.geomspace(0.3, 1e-3, 15):
        fits = fronts.error <= epsilon
        sizes = np.where(fits.any(axis=1), fits.argmax(axis=1), fronts.error.shape[1] - 1)
        plain.append({"epsilon": float(epsilon), **measure(task.reduce().back(fronts.mask(sizes)))})
    fitted = []
    for price in (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6):
        fitted.append({"price": price, **measure(data_masks(task, DIGITS.train, penalty=price).masks)})
        print(fitted[-1], flush=True)
    equal = []
    order = np.argsort([p["rms output error"] for p in plain])
    x = np.log([plain[i]["rms output error"] for i in order])
    y = [plain[i]["kept"] for i in order]
    for f in fitted:
        if x[0] <= np.log(f["rms output error"]) <= x[-1]:
            interpolated = float(np.interp(np.log(f["rms output error"]), x, y))
            equal.append(
                {"rms output error": f["rms output error"], "plain kept": interpolated, "fitted kept": f["kept"]}
            )
    return {"neurons of an input": 24, "plain": plain, "fitted": fitted, "at equal error": equal}


def main(parts: list[str]) -> None:
    """Measure the parts asked for and save them."""
    jobs = {"accuracy": accuracy, "neurons": neurons, "tolerances": tolerances, "data": data, "smallest": smallest}
    for part in parts or list(jobs):
        store("lottery_network", {part: {"figures": jobs[part](), "machine": described("torch")}})


if __name__ == "__main__":
    main(sys.argv[1:])
