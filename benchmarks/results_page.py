"""The nine results in one table and one picture, and the figures that README quotes, from the raw figures on file.

``python -m benchmarks.results_page`` prints the table; with ``--write`` it goes into docs/results.md and README.md,
between their marks, and the picture into docs/results.png. Nothing is measured here; a test compares the pages with
the raw figures.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import load
from benchmarks.summary import PEERS
from prunopt.core.files import write_text

ROOT = Path(__file__).parents[1]
PAGE, README, PICTURE = ROOT / "docs" / "results.md", ROOT / "README.md", ROOT / "docs" / "results.png"


@dataclass(frozen=True)
class Result:
    """One system beside its strongest peer.

    Parameters
    ----------
    ratio
        The peer's error (perplexity, time) over ours, as a geometric mean over the cases: above 1 speaks for prunopt.
    error
        The standard error of the ratio's logarithm over the cases or the windows of text.
    """

    system: str
    setting: str
    ours: str
    peer: str
    theirs: str
    ratio: float
    error: float
    time: str
    details: str
    cases: str = ""

    @property
    def verdict(self) -> str:
        """Ahead or behind by more than a standard error, else on par."""
        distance = math.log(self.ratio)
        word = "ahead" if distance > self.error else "behind" if distance < -self.error else "on par"
        return f"{word}{f' ({self.cases})' if self.cases else ''}"

    def cells(self) -> list[str]:
        """Return the row as text."""
        theirs = f"{self.theirs} ({self.peer})"
        return [self.system, self.setting, self.ours, theirs, self.verdict, self.time, f"[details]({self.details})"]


def _log(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The geometric mean of theirs / ours, and the standard error of its logarithm."""
    logs = np.log([theirs / ours for ours, theirs in pairs])
    return float(np.exp(logs.mean())), float(logs.std(ddof=1) / math.sqrt(len(logs))) if len(logs) > 1 else 0.0


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The ratio of two perplexities from their losses of the same windows, and its standard error."""
    gap = np.asarray(theirs) - np.asarray(ours)
    return float(np.exp(gap.mean())), float(gap.std(ddof=1) / math.sqrt(len(gap)))


def forests() -> Result:
    """Six sets, five budgets, each against the best of three peers there."""
    from benchmarks.forest_accuracy import SHARES, load_results

    found = load_results()
    count = {"ahead": 0, "on par": 0, "behind": 0}
    pairs, seconds = [], []
    for name in sorted({n for n, method in found if method == "prunopt"}):
        mine = found[name, "prunopt"]
        seconds.append((_cpu(mine), _cpu(found[name, "cegb"])))
        for k in range(len(SHARES)):
            rivals = [
                (np.mean([r["records"][k]["accuracy"] for r in found[name, m].values()]), m)
                for m in ("cegb", "ccp", "subset")
            ]
            theirs = found[name, max(rivals)[1]]
            seeds = sorted(set(mine) & set(theirs))
            accuracy = [(mine[s]["records"][k]["accuracy"], theirs[s]["records"][k]["accuracy"]) for s in seeds]
            gap = np.array([a - b for a, b in accuracy])
            error = gap.std(ddof=1) / math.sqrt(len(gap))
            count["ahead" if gap.mean() > error else "behind" if gap.mean() < -error else "on par"] += 1
            wrong = 1 - np.mean(accuracy, axis=0)
            pairs.append((float(wrong[0]), float(wrong[1])))
    ratio, error = _log(pairs)
    ours, theirs = (float(np.mean([1 - p[i] for p in pairs])) for i in (0, 1))
    return Result(
        "1 Random forests under a feature budget",
        "six public data sets, budgets of 5 to 80 % of the cost of all features, accuracy",
        f"{ours:.1%} on average",
        "the best of LightGBM's cost penalties, cost-complexity pruning and a forest on the best features, each case",
        f"{theirs:.1%}",
        ratio,
        error,
        f"{min(a / b for a, b in seconds):.1f} to {max(a / b for a, b in seconds):.1f} x LightGBM's processor time",
        "results/forests.md",
        ", ".join(f"{word} in {n}" for word, n in count.items()),
    )


def _cpu(results: dict[int, dict[str, float]]) -> float:
    return float(np.mean([r["cpu_seconds"] for r in results.values()]))


def heads() -> Result:
    """SmolLM2, a fifth of the head groups removed."""
    rows = load("heads", "smollm2")["rows"]
    ours, theirs = (rows[f"18 of 90, {m}"] for m in ("ours", "re-scored"))
    sizes = ("9", "18", "27", "45")
    pairs = [tuple(rows[f"{n} of 90, {m}"]["perplexity"] for m in ("ours", "re-scored")) for n in sizes]
    _, error = _log(pairs)
    return Result(
        "2 Attention heads",
        f"SmolLM2-135M, 18 of 90 head groups removed, perplexity (dense {rows['dense']['perplexity']:.1f})",
        f"{ours['perplexity']:.1f}",
        "the paper's score, recomputed at every step",
        f"{theirs['perplexity']:.1f}",
        theirs["perplexity"] / ours["perplexity"],
        error,
        f"{ours['evaluations']} losses tried, {theirs['evaluations']} by the peer",
        "results/heads.md",
    )


def lottery() -> Result:
    """A trained network inside a random one."""
    held = load("lottery_subset")
    size, published = held["size"]["figures"]["0.01"], held["error"]["figures"]["published"]
    ours = size["load, group and search seconds"] + size["proof seconds"]
    return Result(
        "3 Logarithmic pruning",
        "397,000 weights as subset sums, tolerance 0.01, each proven smallest: time",
        f"{ours:.1f} s, one core",
        f"Gurobi, published, {published['cores']} cores; it minimizes the error instead",
        f"{published['seconds']:,.0f} s",
        published["seconds"] / ours,
        0.0,
        "the row is a time",
        "results/lottery.md",
    )


def masks() -> Result:
    """Learned 2:4 masks of a tiny model."""
    rows = load("masks", "tiny")
    ours, theirs = rows["ours: mask-descent, refit, maskllm, refit"], rows["maskllm, sparsegpt prior"]
    ratio, error = _paired(ours["losses"], theirs["losses"])
    return Result(
        "4 Learnable N:M masks",
        f"a language model of 0.8 M parameters at 2:4, perplexity (dense {rows['dense']['perplexity']:.2f})",
        f"{ours['perplexity']:.2f}",
        "MaskLLM from SparseGPT's mask",
        f"{theirs['perplexity']:.2f}",
        ratio,
        error,
        f"{ours['cpu_seconds']:.0f} s, {theirs['cpu_seconds']:.0f} s by the peer",
        "results/masks.md",
    )


def search() -> Result:
    """Allocation search on measured curves, 200 evaluations."""
    held = load("allocation", "efficiency")
    last = len(held["counts"]) - 1
    curves = {name: np.asarray(rows["all"])[:, last] for name, rows in held["rows"].items()}
    gains = {name: held["uniform"] - values for name, values in curves.items()}
    peer = min((n for n in curves if n != "dsa-evolution"), key=lambda n: curves[n].mean())
    ratio, error = _log([(float(b), float(a)) for a, b in zip(gains["dsa-evolution"], gains[peer], strict=True)])
    return Result(
        "5 Search over allocation functions",
        f"measured curves of SmolLM2, {held['counts'][last]} evaluations, loss below uniform, {len(gains[peer])} seeds",
        f"{gains['dsa-evolution'].mean():.4f}",
        peer,
        f"{gains[peer].mean():.4f}",
        ratio,
        error,
        "the same number of evaluations",
        "results/allocation.md",
    )


def soft_masks() -> Result:
    """Widths learned in training, six budgets."""
    pairs, points, seconds = [], [], []
    for part in (f"{data}_{share}" for data in ("digits", "cifar") for share in (15, 35, 55)):
        found: dict[str, list[dict[str, float]]] = {}
        for key, row in load("s2h", part)["rows"].items():
            found.setdefault(key.split("/")[0], []).append(row)
        ours, theirs = found["s2h + exact widths"], found["magnitude + fine-tuning"]
        accuracy = [float(np.mean([r["accuracy"] for r in rows])) for rows in (ours, theirs)]
        points.append(accuracy)
        pairs.append((1 - accuracy[0], 1 - accuracy[1]))
        seconds.append(float(np.mean([r["seconds"] for r in ours])) / float(np.mean([r["wall"] for r in theirs])))
    ratio, error = _log(pairs)
    a, b = np.mean(points, axis=0)
    return Result(
        "6 Soft-to-hard distillation",
        "digits and a CIFAR-10 slice, 15, 35, 55 % of the multiply-adds, accuracy",
        f"{a:.1%} on average",
        "magnitude and fine-tuning",
        f"{b:.1%}",
        ratio,
        error,
        f"{min(seconds):.1f} to {max(seconds):.1f} x the peer's",
        "results/soft-masks.md",
    )


def allocation() -> Result:
    """Sparsity over layers, eight columns."""
    pairs, lowest = [], 0
    for found in load("allocation_model").values():
        held = {k.removeprefix("heldout "): v["perplexity"] for k, v in found.items() if k.startswith("heldout ")}
        best = min(held[n] for n in PEERS if n in held)
        pairs.append((held["mckp, swaps"], best))
        lowest += held["mckp, swaps"] <= best
    ratio, error = _log(pairs)
    ours, theirs = np.exp(np.log(pairs).mean(axis=0))
    return Result(
        "7 Allocation to layers",
        f"SmolLM2, {len(pairs)} cases (Wanda and SparseGPT at 50 to 70 %, neurons at 20 and 30 %), perplexity",
        f"{ours:.1f} (geometric mean)",
        "the best of uniform, OWL, ATP, ALS, logarithmic and DSA, case by case",
        f"{theirs:.1f}",
        ratio,
        error,
        "exact knapsack: under 0.05 s; swaps and DSA search on about as many tokens",
        "results/allocation.md",
        f"lowest in {lowest} of {len(pairs)}",
    )


def transformers() -> Result:
    """SmolLM2 at 80 % of its block parameters."""
    from benchmarks.language_model_cells import DOMAINS

    cells = load("language_model")
    domain = next(iter(DOMAINS))
    ours = cells["20 %/ours"]
    peer = min(("wanda", "wanda+refit", "slimgpt"), key=lambda m: np.mean(_losses(cells[f"20 %/{m}"], domain)))
    theirs = cells[f"20 %/{peer}"]
    ratio, error = _paired(_losses(ours, domain), _losses(theirs, domain))
    return Result(
        "8 OBS pruning of layers",
        f"SmolLM2-135M, 20 % of the block parameters removed, perplexity, {domain}"
        f" (dense {np.exp(np.mean(_losses(cells['dense'], domain))):.1f})",
        f"{np.exp(np.mean(_losses(ours, domain))):.1f} without training,"
        f" {np.exp(np.mean(_losses(cells['20 %/default, repaired'], domain))):.1f} as the command repairs it",
        {"slimgpt": "SlimGPT", "wanda": "Wanda"}.get(peer, "Wanda, re-solved"),
        f"{np.exp(np.mean(_losses(theirs, domain))):.1f}",
        ratio,
        error,
        f"{ours['seconds']:.0f} s, {theirs['seconds']:.0f} s by the peer (shared machine)",
        "results/transformers.md",
    )


def _losses(cell: dict[str, dict[str, dict[str, list[float]]]], domain: str) -> list[float]:
    return cell["evaluation"][domain]["loss"]


def networks() -> Result:
    """MobileNetV2, not trained again, beside Torch-Pruning at about the same time."""
    held, other = load("cnn", "mobilenetv2"), load("cnn", "mobilenetv2-swapped")["rows"]
    times = held["processor"]["onnxruntime"]
    right = {k: (r["top1"] + other[k]["top1"]) / 2 for k, r in held["rows"].items() if k in other}
    ours = "measured-repair-0.75"
    theirs = min((k for k in right if k.startswith("peer")), key=lambda k: abs(times[k] - times[ours]))
    wrong = [1 - right[k] for k in (ours, theirs)]
    n = 500  # pictures
    error = math.sqrt(sum((1 - w) / (w * n) for w in wrong))
    return Result(
        "9 CNNs",
        "MobileNetV2, not trained, top-1 on 500 pictures, each half judged by what the other half calibrated"
        f" (dense {right['dense']:.1%})",
        f"{right[ours]:.1%} at {times['dense'] / times[ours]:.2f} x",
        "Torch-Pruning, batch norms re-estimated",
        f"{right[theirs]:.1%} at {times['dense'] / times[theirs]:.2f} x",
        wrong[1] / wrong[0],
        error,
        "the row is at equal time",
        "results/cnn.md",
    )


ROWS: tuple[Callable[[], Result], ...] = (
    forests, heads, lottery, masks, search, soft_masks, allocation, transformers, networks,
)  # fmt: skip


def results() -> list[Result]:
    """Return the nine rows."""
    return [row() for row in ROWS]


def table(found: Sequence[Result]) -> str:
    """Return the table of docs/results.md."""
    heads = ["system", "setting", "prunopt", "strongest peer", "verdict", "time", ""]
    lines = [heads, ["---"] * len(heads), *(row.cells() for row in found)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def three_lines(found: Sequence[Result]) -> str:
    """Return the three lines of the first screen of README.md."""
    chosen = [next(r for r in found if r.system.startswith(key)) for key in ("1", "8", "9")]
    return "\n".join(
        f"- **{r.system.split(' ', 1)[1]}**: {r.setting}: **{r.ours}**; {r.peer}: {r.theirs}; {r.verdict}."
        for r in chosen
    )


def put(page: Path, name: str, text: str) -> str:
    """Return the page with what is between the marks ``name`` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text("utf-8")
    before, begun, rest = whole.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"{page}: the marks {begin} and {end} are missing")
    return f"{before}{begin}\n{text}\n{end}{after}"


def pages(found: Sequence[Result]) -> Iterator[tuple[Path, str]]:
    """Return the pages as the raw figures would have them."""
    yield PAGE, put(PAGE, "results", table(found))
    yield README, put(README, "results", three_lines(found))


def draw(found: Sequence[Result], file: Path) -> None:
    """Draw the ratios to the strongest peer, standard errors, losses like wins."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 3.8), constrained_layout=True)
    right = 10.0  # what lies beyond is drawn as an arrow at the edge
    places = np.arange(len(found))[::-1]
    for y, row in zip(places, found, strict=True):
        low, high, beyond = row.ratio * math.exp(-row.error), row.ratio * math.exp(row.error), row.ratio > right
        ax.plot([min(low, right), min(high, right)], [y, y], color="#4878a8", linewidth=2, zorder=2)
        ax.plot(min(row.ratio, right), y, ">" if beyond else "o", color="#1f4e79", zorder=3, clip_on=False)
        text = f"{row.ratio:,.0f} x" if beyond else f"{row.ratio:.2f} x"
        at = (min(max(high, row.ratio), right), y)
        side = (-8, "right") if beyond else (8, "left")
        ax.annotate(text, at, (side[0], 0), textcoords="offset points", ha=side[1], va="center", fontsize=8)
    ax.axvline(1.0, color="black", linewidth=1)
    ax.set(xscale="log", yticks=places, yticklabels=[r.system for r in found], ylim=(-0.7, len(found) - 0.3))
    ax.set(xlim=(0.7, right), xticks=(0.7, 1, 2, 5, 10), xticklabels=("0.7", "1", "2", "5", "10"))
    ax.minorticks_off()
    ax.set_xlabel("strongest peer's error (or time) over ours; right of 1 prunopt is better")
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=160)
    plt.close(figure)


def main(arguments: list[str]) -> None:
    """Print the table, and write the pages where that is asked for."""
    if arguments not in ([], ["--write"]):
        raise SystemExit(__doc__)
    found = results()
    print(table(found), three_lines(found), sep="\n\n")
    if arguments:
        for page, text in pages(found):
            write_text(page, text)
        draw(found, PICTURE)


if __name__ == "__main__":
    main(sys.argv[1:])
