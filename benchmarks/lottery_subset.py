"""The published subset-sum lottery ticket, solved to proven optimality: fewest kept, least error, the front between.

    python -m benchmarks.lottery_subset            # the whole table, about 3 minutes on one core
    python -m benchmarks.lottery_subset size       # one part: size, draws, error, front, milp, own

The target is the trained 784-500-10 network without biases of Pensia et al. (NeurIPS 2020), 397,000 weights, in
``mnist_fc_784_500_10.npz`` of the folder PRUNOPT_DATA (or ../shared/data). As in their experiment every row of a weight
matrix draws 21 candidates, uniform between the least and the greatest weight of the network. Their solver (Gurobi,
minimum error within epsilon = 0.01) took 77,266 s on 36 cores and kept 9.39 candidates for each weight, by their log.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

import prunopt as po
from benchmarks.datasets import data_folder
from benchmarks.machine import described, in_fresh_process, median, peak_bytes, seconds
from benchmarks.results import store
from prunopt.core.arrays import Floats
from prunopt.forms import SubsetSum
from prunopt.solvers.subset_sum.golden_ratio import GoldenRatio
from prunopt.solvers.subset_sum.subset_sum_milp import SubsetSumMilp, one_target
from prunopt.solvers.subset_sum.subset_sum_mitm import SubsetSumMitm, size_error_fronts, smallest_subsets

FILE = data_folder() / "mnist_fc_784_500_10.npz"
N_CANDIDATES = 21
EPSILONS = (1e-2, 1e-3, 1e-4)
PUBLISHED = {"seconds": 77_266, "cores": 36, "kept per weight": 9.39, "epsilon": 0.01}


def weights() -> tuple[Floats, NDArray[np.int64]]:
    """The weights of the network, layer by layer, and the row (of either matrix) that each belongs to."""
    if not FILE.is_file():
        raise SystemExit(f"{FILE}: no such file; set PRUNOPT_DATA to the folder that holds it")
    with np.load(FILE, allow_pickle=False) as file:
        layers = [file["fc1.weight"].astype(np.float64), file["fc2.weight"].astype(np.float64)]
    rows = [np.repeat(np.arange(len(w)), w.shape[1]) for w in layers]
    return np.concatenate([w.ravel() for w in layers]), np.concatenate([rows[0], len(layers[0]) + rows[1]])


def network(epsilon: float, seed: int = 1, *, own: bool = False) -> SubsetSum:
    """The problem: candidates drawn for each row of the matrices, or (``own``) for each weight by itself."""
    targets, rows = weights()
    rng = np.random.default_rng(seed)
    low, high = targets.min(), targets.max()
    if own:
        return SubsetSum(targets, rng.uniform(low, high, (len(targets), N_CANDIDATES)), epsilon)
    return SubsetSum(targets, rng.uniform(low, high, (rows.max() + 1, N_CANDIDATES))[rows], epsilon)


def warm() -> None:
    """Have the kernels compiled (or read from their cache) before anything is timed."""
    tiny = SubsetSum([0.3, 0.9], [[0.25, 0.5], [0.3, 0.6]], 0.1)
    po.solve(tiny, "subset-sum-mitm")
    po.solve(tiny, "golden-ratio")
    smallest_subsets(tiny, objective="error")
    size_error_fronts(tiny)


def place(number: int) -> str:
    """The name of a weight by its number."""
    row, column = divmod(number, 784) if number < 392_000 else divmod(number - 392_000, 500)
    return f"fc{1 if number < 392_000 else 2}.weight[{row}, {column}]"


def figures_of(problem: SubsetSum, objective: str) -> dict[str, Any]:
    """What one search gives: kept, errors, and the weights out of reach by name."""
    found = smallest_subsets(problem, objective=objective)
    reached, missed = found.reached, found.impossible
    worst = missed[np.argsort(-found.error[missed])]
    return {
        "weights": problem.n_targets,
        "kept": int(found.size[reached].sum()),
        "kept per weight": float(found.size[reached].mean()),
        "largest subset": int(found.size[reached].max()),
        "histogram of sizes": np.bincount(found.size[reached]).tolist(),
        "rms error": float(np.sqrt(np.mean(found.error[reached] ** 2))),
        "largest error": float(found.error[reached].max()),
        "infeasible": len(missed),
        "rows with infeasible weights": len(np.unique(problem.fixed.pool[missed])),
        "infeasible, worst first": [{"weight": place(int(i)), "no nearer than": float(found.error[i])} for i in worst],
    }


def size() -> dict[str, Any]:
    """The provably smallest subset of every weight, at each epsilon."""
    return {
        f"{epsilon:g}": in_fresh_process("benchmarks.lottery_subset", "size_at", str(epsilon)) for epsilon in EPSILONS
    }


def size_at(epsilon: str) -> dict[str, Any]:
    """One epsilon, in a process of its own: time of the search, of the proof and of the whole solve, and memory."""
    warm()
    problem = network(float(epsilon))
    out: dict[str, Any] = {}
    taken = [seconds(lambda: out.update(found=smallest_subsets(network(float(epsilon))))) for _ in range(3)]
    found = out["found"]
    claims = np.where(found.reached, found.size, 0)
    proof = [seconds(lambda: out.update(proven=problem.proven_sizes(claims))) for _ in range(3)]
    answer = figures_of(problem, "size")
    answer.update(
        {
            "load, group and search seconds": median(taken),
            "proof seconds": median(proof),
            "sizes proven by the form's own check": int((out["proven"] == claims)[found.reached].sum()),
        }
    )
    if not answer["infeasible"]:
        whole = [
            seconds(lambda: out.update(solution=po.solve(network(float(epsilon)), "subset-sum-mitm"))) for _ in range(3)
        ]
        solution = out["solution"]
        answer.update({"solve seconds": median(whole), "status": solution.status.name})
        answer.update({"objective": solution.objective, "bound": solution.bound})
    answer["peak bytes"] = peak_bytes()
    return answer


def draws(count: int = 5) -> dict[str, Any]:
    """The same at other draws of the candidates: one unlucky row can hold all infeasible weights."""
    rows = [
        {"seed": seed, "epsilon": epsilon, **{k: figures[k] for k in ("kept per weight", "infeasible")}}
        for epsilon in EPSILONS
        for seed in range(count)
        for figures in [figures_of(network(epsilon, seed), "size")]
    ]
    return {"rows": rows}


def error() -> dict[str, Any]:
    """The least error of every weight (the published objective), and the heuristic, beside the smallest subset."""
    warm()
    problem = network(0.01)
    out: dict[str, Any] = {}
    taken = seconds(lambda: out.update(solution=po.solve(problem, SubsetSumMitm(objective="error"))))
    golden = seconds(lambda: out.update(golden=po.solve(problem, GoldenRatio())))
    least, heuristic = figures_of(problem, "error"), out["golden"]
    return {
        "least error": {**least, "solve seconds": taken, "status": out["solution"].status.name},
        "golden-ratio": {
            "solve seconds": golden,
            "kept per weight": heuristic.objective / problem.n_targets,
            "rms error": float(np.sqrt(np.mean(problem.errors(heuristic.value) ** 2))),
            "largest error": float(np.abs(problem.errors(heuristic.value)).max()),
            "repaired": heuristic.stats["repaired"],
        },
        "published": PUBLISHED,
    }


def front() -> dict[str, Any]:
    """Kept candidates against error over the whole network: epsilon for each weight, or one price of a candidate."""
    warm()
    problem = network(0.01)
    out: dict[str, Any] = {}
    taken = seconds(lambda: out.update(fronts=size_error_fronts(problem)))
    fronts, m = out["fronts"], problem.n_targets
    rows = np.arange(m)
    uniform = []
    for epsilon in np.geomspace(1e-1, 1e-6, 21):
        fits = fronts.error <= epsilon
        k = np.where(fits.any(axis=1), fits.argmax(axis=1), fronts.error.shape[1] - 1)
        errors = fronts.error[rows, k]
        uniform.append(
            {
                "epsilon": float(epsilon),
                "kept per weight": float(fronts.size[rows, k].mean()),
                "rms error": float(np.sqrt(np.mean(errors**2))),
                "beyond epsilon": int((errors > epsilon).sum()),
            }
        )
    kept, rms = fronts.trade(np.r_[0.0, np.geomspace(1e-12, 1e-2, 41)])
    priced = [{"kept per weight": k / m, "rms error": float(r)} for k, r in zip(kept.tolist(), rms, strict=True)]
    return {"seconds": taken, "one epsilon for all": uniform, "least total squared error": priced}


def milp(sampled: int = 200) -> dict[str, Any]:
    """Integer programming on sampled weights that need at least one candidate, against our sizes."""
    answers: dict[str, Any] = {}
    for epsilon, engine in ((1e-2, "HiGHS"), (1e-2, "PULP_CBC_CMD"), (1e-3, "HiGHS"), (1e-4, "HiGHS")):
        problem = network(epsilon)
        ours = smallest_subsets(problem)
        rng = np.random.default_rng(1)
        chosen = rng.choice(np.flatnonzero(np.abs(problem.targets) > epsilon), sampled, replace=False)
        agree, taken = 0, []
        for i in chosen:
            single, out = one_target(problem, int(i)), {}
            solver = SubsetSumMilp(engine=engine)
            taken.append(seconds(lambda s=single, o=out, v=solver: o.update(x=po.solve(s, v, throw=False))))
            theirs = out["x"]
            if ours.reached[i]:
                agree += theirs.objective == ours.size[i] and theirs.status is po.Status.OPTIMAL
            else:
                agree += theirs.status is po.Status.INFEASIBLE
        answers[f"{engine} at {epsilon:g}"] = {
            "sampled": sampled,
            "agree": int(agree),
            "infeasible among them": int((~ours.reached[chosen]).sum()),
            "milliseconds each": 1000 * sum(taken) / sampled,
        }
    return answers


def own() -> dict[str, Any]:
    """Candidates drawn for every weight by itself: nothing is shared, every pool is listed again."""
    warm()
    answers: dict[str, Any] = {}
    for epsilon in EPSILONS[:2]:
        problem, out = network(epsilon, own=True), {}
        taken = seconds(lambda p=problem, o=out: o.update(x=smallest_subsets(p)))
        found = out["x"]
        answers[f"{epsilon:g}"] = {
            "search seconds": taken,
            "kept per weight": float(found.size[found.reached].mean()),
            "infeasible": int((~found.reached).sum()),
        }
    return answers


def table(parts: dict[str, Any]) -> str:
    """The figures as markdown."""
    lines = [
        "| | epsilon | seconds, 1 core | kept / weight | largest | rms error | largest error | infeasible | peak |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for epsilon, f in parts.get("size", {}).items():
        taken = f.get("solve seconds", f["load, group and search seconds"] + f["proof seconds"])
        lines.append(
            f"| fewest kept, proven | {epsilon} | {taken:.2f} | {f['kept per weight']:.3f} | {f['largest subset']} | "
            f"{f['rms error']:.2e} | {f['largest error']:.2e} | {f['infeasible']} in "
            f"{f['rows with infeasible weights']} rows | {f['peak bytes'] / 2**30:.2f} GiB |"
        )
    if "error" in parts:
        f, g = parts["error"]["least error"], parts["error"]["golden-ratio"]
        lines.append(
            f"| least error, proven | 0.01 | {f['solve seconds']:.2f} | {f['kept per weight']:.3f} | "
            f"{f['largest subset']} | {f['rms error']:.2e} | {f['largest error']:.2e} | {f['infeasible']} | |"
        )
        lines.append(
            f"| golden-ratio | 0.01 | {g['solve seconds']:.2f} | {g['kept per weight']:.3f} | | {g['rms error']:.2e} | "
            f"{g['largest error']:.2e} | 0 ({g['repaired']} by meeting in the middle) | |"
        )
        lines.append("| published, Gurobi | 0.01 | 77266 on 36 cores | 9.39 | | | | 0 | |")
    return "\n".join(lines)


def main(parts: list[str]) -> None:
    """Measure the parts asked for and save them."""
    jobs = {"size": size, "draws": draws, "error": error, "front": front, "milp": milp, "own": own}
    figures: dict[str, Any] = {}
    for part in parts or list(jobs):
        figures[part] = jobs[part]()
        store("lottery_subset", {part: {"figures": figures[part], "machine": described("highspy", "pulp")}})
        brief = {
            k: v for k, v in figures[part].items() if k not in ("one epsilon for all", "least total squared error")
        }
        if part not in ("size", "error"):
            print(part, brief, flush=True)
    print(table(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
