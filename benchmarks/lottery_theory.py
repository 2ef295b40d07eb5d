"""The theory of lottery tickets, measured: widths and slopes, failure probabilities, and 200 random networks.

    python -m benchmarks.lottery_theory             # everything, about 10 minutes on one core
    python -m benchmarks.lottery_theory slopes      # one part: slopes, failure, widths, seeds, pictures

Candidates are products of a first weight u and a second weight v; a target is a weight w in [-B, B], and its inputs are
signed: it needs a subset among the neurons with u > 0 and another among those with u < 0.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import described
from benchmarks.results import FOLDER, load, store
from prunopt.core.files import write_atomically
from prunopt.forms import SubsetSum
from prunopt.forms.random_pools import (
    GAMMA,
    golden_levels,
    golden_width,
    hyperbolic_samples,
    product_samples,
    product_width,
    proven_width,
    single_width,
)
from prunopt.solvers.subset_sum.subset_sum_mitm import smallest_subsets

BITS = tuple(range(3, 14))  # of B / epsilon
TARGETS = 1000
MOST = 64


def subset_needed(kind: str, bits: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many samples of the right sign each target needs before some subset is within epsilon."""
    largest = 0.5 if kind == "uniform" else 0.25
    targets = rng.uniform(-largest, largest, TARGETS)
    samples = rng.uniform(-1, 1, (TARGETS, MOST))
    if kind == "product":
        samples *= rng.uniform(0, 1, samples.shape)
    needed = np.full(TARGETS, MOST + 1)
    left = np.arange(TARGETS)
    for n in range(1, 33):
        found = smallest_subsets(SubsetSum(targets[left], samples[left, :n], largest / 2.0**bits))
        needed[left[found.reached]] = n
        left = left[~found.reached]
        if not len(left):
            break
    return needed


def golden_needed(kind: str, bits: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many samples of random sign fill every golden interval with one of the target's sign."""
    k = golden_levels(2.0**-bits)
    if kind == "ideal":
        return np.full(TARGETS, k)
    low, high = GAMMA ** (k + 1), GAMMA
    needed = np.zeros(TARGETS, np.int64)
    for t in range(TARGETS):
        filled, drawn = np.full(k, -1), 0
        while (filled < 0).any():
            if kind == "hyperbolic":
                v = hyperbolic_samples(512, low, high, seed=rng)
            else:
                a, b = product_samples(512, low, high, seed=rng)
                v = a * b
            level = np.floor(np.log(high / v) / -math.log(GAMMA)).astype(int)
            level[(rng.random(512) < 0.5) | (level < 0) | (level >= k)] = -1
            for i in range(k):
                at = np.flatnonzero(level == i)
                if filled[i] < 0 and len(at):
                    filled[i] = drawn + at[0] + 1
            drawn += 512
        needed[t] = filled.max()
    return needed


def both_halves(needed: list[NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    """How many neurons, each of a random sign of u, hold what either half needs."""
    most = int(max(part.max() for part in needed))
    signs = rng.random((len(needed[0]), 4 * most + 64)) < 0.5
    rows = np.arange(len(signs))
    found = np.zeros(len(signs), np.int64)
    for half, part in zip((True, False), needed, strict=True):
        count = np.cumsum(signs == half, axis=1)
        found = np.maximum(found, (count >= part[rows, None]).argmax(axis=1) + 1)
    return found


def slopes() -> dict[str, Any]:
    """Samples for a weight on signed inputs against log2(B / epsilon): medians, 99th percentiles, fitted lines."""
    rng = np.random.default_rng(0)
    kinds = {
        "golden-ratio, ideal": lambda bits: golden_needed("ideal", bits, rng),
        "golden-ratio, hyperbolic samples": lambda bits: golden_needed("hyperbolic", bits, rng),
        "golden-ratio, products of two": lambda bits: golden_needed("product", bits, rng),
        "subset sum, uniform": lambda bits: subset_needed("uniform", bits, rng),
        "subset sum, products of two uniforms": lambda bits: subset_needed("product", bits, rng),
    }
    answer: dict[str, Any] = {}
    for name, needs in kinds.items():
        rows = []
        for bits in BITS:
            halves = [needs(bits), needs(bits)]
            signed = sum(halves) if "ideal" in name else both_halves(halves, rng)
            row = {"log2(B / epsilon)": bits}
            for label, values in (("one half", halves[0]), ("signed inputs", signed)):
                row.update(
                    {f"{label}, median": float(np.median(values)), f"{label}, 99 %": float(np.quantile(values, 0.99))}
                )
            rows.append(row)
        fits = {
            key: dict(
                zip(
                    ("slope", "intercept"),
                    np.polyfit([r["log2(B / epsilon)"] for r in rows], [r[key] for r in rows], 1).tolist(),
                    strict=True,
                )
            )
            for key in rows[0]
            if key != "log2(B / epsilon)"
        }
        answer[name] = {"rows": rows, "fits": fits}
        print(name, {key: f"{f['slope']:.2f} n + {f['intercept']:.1f}" for key, f in fits.items()}, flush=True)
    return answer


def failure(targets: int = 200_000) -> dict[str, Any]:
    """Share of weights at the edge of the range (w = B, the hardest) without a subset, by the number of samples."""
    rng = np.random.default_rng(1)
    answer: dict[str, Any] = {"targets": targets}
    for bits in (4, 7, 10):
        rows = []
        for n in range(8, 31, 2):
            samples = rng.uniform(0, 1, (targets, n)) * rng.uniform(-1, 1, (targets, n))
            found = smallest_subsets(SubsetSum(np.full(targets, 0.25), samples, 0.25 / 2.0**bits))
            missed = int((~found.reached).sum())
            rows.append({"n": n, "failed": missed, "share": missed / targets})
            if missed < 5:
                break
        laws = {
            f"{delta:g}": {
                "product_width": product_width(0.25 / 2.0**bits, delta),
                "measured": next((r["n"] for r in rows if r["share"] <= delta), None),
                "proven": proven_width(0.25 / 2.0**bits, delta, largest=0.25, mass=math.log(2) / 2),
            }
            for delta in (1e-1, 1e-2, 1e-3, 1e-4)
        }
        answer[f"log2(B / epsilon) = {bits}"] = {"rows": rows, "width for delta": laws}
        print(bits, laws, flush=True)
    golden = {}
    for delta in (0.5, 0.1, 0.01):
        width, runs = golden_width(0.01, delta), 20_000
        v = hyperbolic_samples((runs, width.samples), width.low, width.high, seed=rng)
        level = np.floor(np.log(width.high / v) / -math.log(GAMMA)).astype(int)
        filled = np.stack([(level == i).any(axis=1) for i in range(width.levels)], axis=1).all(axis=1)
        golden[f"{delta:g}"] = {"samples": width.samples, "failed": float(1 - filled.mean()), "runs": runs}
    answer["golden-ratio, epsilon 0.01, one sign"] = golden
    return answer


def widths(delta: float = 0.01) -> dict[str, Any]:
    """Samples for a target weight (both halves) in a network of l layers of d x d, for an output error of epsilon.

    The tolerance of a weight is epsilon / (e l d), the number of weights l d^2, weights up to 1.
    """
    rows = []
    cases = [(e, 3, 100) for e in (1e-1, 1e-2, 1e-3, 1e-4)]
    cases += [(1e-2, depth, 100) for depth in (1, 2, 5, 10)] + [(1e-2, 3, d) for d in (10, 1000)]
    for epsilon, depth, d in cases:
        n = 2 * depth * d * d
        each = epsilon / (math.e * depth * d)
        k = golden_levels(each)
        mass = (1 + 1 / k) / (2 * k)
        batch = golden_width(each, delta / 2, n_weights=d * d, product=True)
        rows.append(
            {
                "output epsilon": epsilon,
                "depth": depth,
                "width": d,
                "weight epsilon": each,
                "golden-ratio, ideal": 2 * k,
                "golden-ratio, neurons of an input shared": math.ceil(math.log(k * n / delta) / (mass / 4)),
                "golden-ratio, the paper's batch": 4 * batch.samples / (d * d),
                "subset sum, measured law": 2 * product_width(each, delta, n_weights=n, largest=1.0),
                "subset sum, proven": 2 * proven_width(each, delta, n_weights=n, largest=1.0, mass=math.log(2) / 2),
                "one product (polynomial)": 2 * single_width(each, delta, n_weights=n, largest=1.0),
                "polynomial theorem, d^4 l^2 / epsilon^2 log(d l / delta), without its constant": d**4
                * depth**2
                / epsilon**2
                * math.log(d * depth / delta),
            }
        )
    return {"delta": delta, "rows": rows}


def seeds(count: int = 200, delta: float = 0.05) -> dict[str, Any]:
    """A 16-12-6 target with biases, signed inputs: in how many random networks every weight is within epsilon."""
    import torch

    import prunopt as po
    from prunopt.problems import LotteryTicket

    torch.manual_seed(0)
    target = torch.nn.Sequential(torch.nn.Linear(16, 12), torch.nn.ReLU(), torch.nn.Linear(12, 6))
    answer: dict[str, Any] = {"delta": delta, "seeds": count}
    for construction in ("subset-sum", "golden-ratio"):
        for epsilon in (1e-2, 1e-3):
            rule = LotteryTicket(target, epsilon, construction=construction, delta=delta, rescale=True).pairs[0].width
            for share in (1.0, 0.75, 0.5, 0.35):
                runs = count if share == 1.0 else 50
                width = None if share == 1.0 else max(1, round(rule * share))
                done, worst = 0, 0.0
                for seed in range(runs):
                    task = LotteryTicket(
                        target,
                        epsilon,
                        construction=construction,
                        delta=delta,
                        rescale=True,
                        seed=seed,
                        width=width,
                    )
                    # The paper's own decomposition counts, not what meeting in the middle would make of its samples.
                    if construction == "golden-ratio":
                        from prunopt.solvers.subset_sum.golden_ratio import GoldenRatio

                        solution = po.solve(task, GoldenRatio(repair=False), throw=False)
                    else:
                        solution = po.solve(task, throw=False)
                    if solution.status.has_value:
                        done += 1
                        worst = max(worst, task.certificate(solution.value).largest_weight_error)
                row = {"width": width or rule, "seeds": runs, "every weight within epsilon": done, "worst": worst}
                answer[f"{construction}, epsilon {epsilon:g}, {share:g} of the theory's width"] = row
                print(construction, epsilon, share, row, flush=True)
    return answer


def pictures() -> None:
    """Draw the saved figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from prunopt.plots import COLOURS

    parts = {name: load("lottery_theory", name)["figures"] for name in ("slopes", "failure", "widths")}
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6))
    for colour, marker, (name, part) in zip(COLOURS, "osD^v", parts["slopes"].items(), strict=False):
        x = [row["log2(B / epsilon)"] for row in part["rows"]]
        y = [row["signed inputs, median"] for row in part["rows"]]
        fit = part["fits"]["signed inputs, median"]
        axes[0].plot(x, y, color=colour, marker=marker, label=f"{name}: {fit['slope']:.2f} a bit")
    axes[0].set(xlabel="log2(B / epsilon)", ylabel="samples for a weight, median", yscale="log", title="Signed inputs")
    axes[0].legend(fontsize=7)
    for colour, marker, bits in zip(COLOURS, "osD", (4, 7, 10), strict=False):
        rows = parts["failure"][f"log2(B / epsilon) = {bits}"]["rows"]
        axes[1].plot([r["n"] for r in rows], [max(r["share"], 1e-6) for r in rows], color=colour, marker=marker,
                     label=f"B / epsilon = 2^{bits}")  # fmt: skip
        n = np.linspace(6, 32)
        axes[1].plot(n, np.minimum(1, 2 ** (-(n - 2 - bits) / 1.35)), color=colour, linestyle=":")
    axes[1].set(xlabel="samples of one sign", ylabel="weights at B without a subset", yscale="log", ylim=(1e-6, 1.5),
                title="Failures; dotted: the rule used")  # fmt: skip
    axes[1].legend(fontsize=8)
    rows = [r for r in parts["widths"]["rows"] if (r["depth"], r["width"]) == (3, 100)]
    for colour, marker, key in zip(COLOURS, "osD^vP*", list(rows[0])[4:], strict=False):
        label = key.split(",")[0] + " theorem" if "theorem" in key else key
        axes[2].plot(
            [r["output epsilon"] for r in rows], [r[key] for r in rows], color=colour, marker=marker, label=label
        )
    axes[2].set(xscale="log", yscale="log", xlabel="output error", ylabel="samples for a target weight",
                title="Three layers of 100 x 100, delta 0.01", ylim=(10, 1e8))  # fmt: skip
    axes[2].legend(fontsize=7)
    figure.tight_layout()
    with write_atomically(FOLDER / "lottery_theory.png") as temporary:
        figure.savefig(temporary, dpi=110)

    saved = {name: load("lottery_subset", name)["figures"] for name in ("front", "error")}
    figure, ax = plt.subplots(figsize=(6, 4.4))
    front = saved["front"]
    uniform = [r for r in front["one epsilon for all"] if not r["beyond epsilon"]]
    for colour, marker, label, rows in (
        (COLOURS[0], "o", "fewest within one epsilon (proven)", uniform),
        (COLOURS[2], "", "least squared error at a price", front["least total squared error"]),
    ):
        x, y = ([r[key] for r in rows] for key in ("kept per weight", "rms error"))
        ax.plot(x, y, color=colour, marker=marker, markersize=4, label=label)
    least = saved["error"]["least error"]
    ax.plot(
        least["kept per weight"],
        least["rms error"],
        "s",
        color=COLOURS[1],
        label="least error of every weight (proven)",
    )
    ax.axvline(9.39, color="grey", linestyle=":", label="published: 9.39 kept, Gurobi")
    ax.set(yscale="log", xlabel="kept for each target weight", ylabel="rms error of the weights",
           title="784-500-10, 21 candidates: size against error")  # fmt: skip
    ax.legend(fontsize=8)
    figure.tight_layout()
    with write_atomically(FOLDER / "lottery_front.png") as temporary:
        figure.savefig(temporary, dpi=110)


def main(parts: list[str]) -> None:
    """Measure the parts asked for and save them."""
    jobs = {"slopes": slopes, "failure": failure, "widths": widths, "seeds": seeds}
    for part in parts or [*jobs, "pictures"]:
        if part == "pictures":
            pictures()
        else:
            store("lottery_theory", {part: {"figures": jobs[part](), "machine": described("torch")}})


if __name__ == "__main__":
    main(sys.argv[1:])
