"""Every figure of ours beside its peer's, from the raw figures on file.

``python -m benchmarks.summary`` prints the table; `benchmarks.results_page` has one row per system. Nothing is measured
here. A ratio above 1 speaks for prunopt (times and errors: the peer's over ours; what grows with quality: ours over the
peer's). What has no figures on file yet is left out, and named below the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.results import load


@dataclass(frozen=True)
class Row:
    """One comparison; ``ratio`` above 1 speaks for prunopt."""

    what: str
    peer: str
    ours: str
    theirs: str
    ratio: float | None
    file: str

    def cells(self) -> list[str]:
        """Return the row as text."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}" if self.ratio < 100 else f"{self.ratio:,.0f}"
        return [self.what, self.peer, self.ours, self.theirs, ratio, f"`{self.file}`"]


def _less(what: str, peer: str, ours: float, theirs: float, file: str, unit: str = "") -> Row:
    """A row where less is better."""
    tail = f" {unit}" if unit else ""
    return Row(what, peer, f"{ours:.4g}{tail}", f"{theirs:.4g}{tail}", theirs / ours if ours else math.inf, file)


def _span(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def cut() -> Iterator[Row]:
    """The exact cut of forests."""
    file, speed = "forest_speed", load("forest_speed")
    f = speed["highs"]["figures"]
    yield _less("exact cut, magic, 40 trees", "HiGHS, interior point", f["cut seconds"], f["highs seconds"], file, "s")
    for name in ("magic", "letter"):
        cuts = speed[name]["figures"]["cuts"].values()
        ours, theirs = (float(np.median([c[key] for c in cuts])) for key in ("cut", "ortools"))
        yield _less(f"exact cut, {name}, median of {len(cuts)} prices", "OR-tools max flow", ours, theirs, file, "s")
    rules = speed["primal-dual"]["figures"]["rules"]
    gaps = [100 * rules[who]["gap"] for who in ("ours", "authors")]
    yield Row(
        "primal-dual, gap after 20 s", "the authors' step rule", f"{gaps[0]:.2f} %", f"{gaps[1]:.2f} %", None, file
    )


def forests() -> Iterator[Row]:
    """Accuracy within a feature budget."""
    from benchmarks.forest_accuracy import SHARES, load_results

    results = load_results()
    for peer, title in (
        ("cegb", "LightGBM, cost-aware"),
        ("ccp", "forest, cost-complexity"),
        ("subset", "forest, best features"),
    ):
        count = {"ahead": 0, "level": 0, "behind": 0}
        gains = []
        for name, method in results:
            if method != "prunopt" or (name, peer) not in results:
                continue
            ours, theirs = results[name, "prunopt"], results[name, peer]
            seeds = sorted(set(ours) & set(theirs))
            for k in range(len(SHARES)):
                gap = 100 * np.array(
                    [ours[s]["records"][k]["accuracy"] - theirs[s]["records"][k]["accuracy"] for s in seeds]
                )
                error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else 0.0
                side = "ahead" if gap.mean() > error else "behind" if gap.mean() < -error else "level"
                count[side] += 1
                gains.append(gap.mean())
        text = ", ".join(f"{side} {n}" for side, n in count.items())
        what = f"accuracy within a feature budget, {len(gains)} cases (set x budget), by more than a standard error"
        yield Row(what, title, text, f"{np.mean(gains):+.1f} points on average", None, "forest_accuracy")


def layers() -> Iterator[Row]:
    """Layers of SmolLM2-135M."""
    file, held = "layer", load("layer")
    rows = list(held["heads"]["rows"].values())
    for peer in ("slimgpt", "wanda", "magnitude"):
        what = f"heads of o_proj, error over the proven optimum, mean of {len(rows)}"
        yield _less(
            what, peer, float(np.mean([r["obs-swap"] for r in rows])), float(np.mean([r[peer] for r in rows])), file
        )
    rows = list(held["ffn"]["rows"].values())
    ratios = [r["slimgpt"] / r["obs-greedy"] for r in rows]
    seconds = [float(np.median([r[f"{n} seconds"] for r in rows])) for n in ("obs-greedy", "slimgpt")]
    what = f"half of the feed-forward columns, {len(rows)} layers"
    yield Row(
        f"{what}: error",
        "slimgpt",
        f"{_span([1 / r for r in ratios])} of the peer's",
        "1",
        float(np.mean(ratios)),
        file,
    )
    yield _less(f"{what}: time", "slimgpt", *seconds, file, "s")
    for name, r in held["masks"]["rows"].items():
        if "llm-compressor SparseGPT" in r and "mask-descent" in r:
            ours, theirs = r["mask-descent"], r["llm-compressor SparseGPT"]
            yield _less(f"{name}: held-out error", "llm-compressor SparseGPT", ours["heldout"], theirs["heldout"], file)
            yield _less(f"{name}: time", "llm-compressor SparseGPT", ours["seconds"], theirs["seconds"], file, "s")


def models() -> Iterator[Row]:
    """SmolLM2-135M pruned whole."""
    from benchmarks.language_model_cells import DOMAINS, GROUPS, perplexity

    cells = load("language_model")
    for group, (methods, _) in GROUPS.items():
        ours = cells.get(f"{group}/ours")
        for method in methods:
            row = cells.get(f"{group}/{method}")
            if method in ("ours", "magnitude") or ours is None or row is None:  # magnitude: no usable baseline
                continue
            for domain in (d for d in DOMAINS if d in ours["evaluation"] and d in row["evaluation"]):
                pair = perplexity(ours, domain), perplexity(row, domain)
                what = f"SmolLM2, {group.replace('2-4', '2:4')}, perplexity, {domain}"
                yield _less(what, method, *pair, "language_model")


def allocation() -> Iterator[Row]:
    """Sparsity over layers."""
    file = "allocation"
    rows = load(file, "knapsack")["rows"]
    for peer, title in (("PULP_CBC_CMD", "CBC"), ("HiGHS", "HiGHS")):
        found = [r for r in rows if peer in r]
        if found:
            ours, theirs = (float(np.median([r[k] for r in found])) for k in ("choice-dp", peer))
            unproven = sum(r.get(f"{peer} status") != "OPTIMAL" for r in found)
            title += f" (without a proof in {unproven} of {len(found)} when stopped)" if unproven else ""
            yield _less("multiple-choice knapsack, 224 modules x 21 levels, with proof", title, ours, theirs, file, "s")
    for name, found in sorted(load("allocation_model").items()):
        held = {k.removeprefix("heldout "): v["perplexity"] for k, v in found.items() if k.startswith("heldout ")}
        column = f"allocation, {name.replace('-', ' ')} %, held-out perplexity"
        for ours in (n for n in OURS if n in held):
            for peer in (n for n in held if n in PEERS):
                yield _less(f"{column}; {ours}", peer, held[ours], held[peer], "allocation_model")


OURS = ("mckp", "mckp, learned", "mckp, swaps")  # fixed beforehand: nothing is chosen on the held-out text
PEERS = ("uniform", "owl", "atp", "als global", "als row", "log", "dsa")


def heads() -> Iterator[Row]:
    """Attention heads: mean rank among all selections."""
    file = "heads"
    rows = [r for r in load(file, "digits")["rows"].values() if "ranks" in r]
    paper = "example-abs, l2 (paper)"
    what = f"heads of a digits transformer, mean rank among all selections, {len(rows)} seeds (0 is best)"
    ours, theirs = (float(np.mean([r["ranks"][k] for r in rows])) for k in ("surrogate", paper))
    yield Row(what, paper, f"{ours:.3g}", f"{theirs:.3g}", None, file)


def embeddings() -> Iterator[Row]:
    """Heads of MiniLM."""
    file = "heads"
    rows = load(file, "minilm")["rows"]
    for name in rows:
        removed, _, method = name.partition(", ")
        if method != "ours":
            continue
        for peer, title in (
            ("paper", "the paper's score"),
            ("re-scored", "the paper's score, recomputed at every step"),
        ):
            if f"{removed}, {peer}" in rows:
                pair = (1 - rows[f"{removed}, {m}"]["removed"]["cosine"] for m in ("ours", peer))
                yield _less(f"MiniLM, {removed} heads removed, 1 - cosine to the dense embedding", title, *pair, file)


def masks() -> Iterator[Row]:
    """N:M masks learned by the loss."""
    file = "masks"
    rows = {k: v for k, v in load(file, "tiny").items() if "perplexity" in v}
    ours = min((k for k in rows if k.startswith("ours")), key=lambda k: rows[k]["perplexity"])
    what = f"2:4, tiny language model, held-out perplexity (dense {rows['dense']['perplexity']:.2f}); {ours}"
    for peer in ("maskllm, sparsegpt prior", "sparsegpt, its own weights", "wanda", "magnitude"):
        if peer in rows:
            yield _less(what, peer, rows[ours]["perplexity"], rows[peer]["perplexity"], file)
    for name, row in load(file, "toy").items():
        if "exchanged: optimal of 100" in row:
            pair = (f"{row[f'{k}: optimal of 100']} of 100" for k in ("exchanged", "published"))
            yield Row(f"masks of {name}, seeds that find the proven optimum", "MaskLLM as published", *pair, None, file)


def networks() -> Iterator[Row]:
    """CNNs beside Torch-Pruning, in measured milliseconds of processor time (the machine is shared)."""
    file, held = "cnn", load("cnn")
    for name in (n for n in ("mobilenetv2", "efficientnet-lite0") if n in held):
        data = held[name]
        rows, times = data["rows"], data["processor"].get("onnxruntime", {})
        for label in (k for k in rows if k in times and not k.startswith(("dense", "peer"))):
            # the peer's network that is nearest in time, either of its two (batch norms as they were, or re-estimated)
            near = [k for k in rows if k.startswith("peer") and k in times and abs(times[k] / times[label] - 1) < 0.1]
            if near:
                best = max(near, key=lambda k: rows[k]["top1"])
                what = f"{name}, not tuned, {label}: top-1 at {times['dense'] / times[label]:.2f} x in ONNX Runtime"
                theirs = f"{rows[best]['top1']:.3f} at {times['dense'] / times[best]:.2f} x"
                yield Row(what, f"Torch-Pruning ({best})", f"{rows[label]['top1']:.3f}", theirs, None, file)


def widths() -> Iterator[Row]:
    """Widths learned while training."""
    for part, held in sorted(load("s2h").items()):
        if not part.startswith("digits_"):
            continue
        found: dict[str, list[float]] = {}
        for key, row in held["rows"].items():
            found.setdefault(key.split("/")[0], []).append(row["accuracy"])
        ours = next((k for k in ("s2h + exact widths", "s2h") if k in found), None)
        for peer in ("s2h", "uniform width from scratch", "magnitude + fine-tuning", "soft mask only"):
            if ours is None or peer not in found or peer == ours:
                continue
            text = (f"{np.mean(found[k]):.3f} ({len(found[k])} seeds)" for k in (ours, peer))
            title = "s2h, the paper's rounding" if peer == "s2h" else peer
            yield Row(f"s2h {part.replace('_', ' ')} % of the MACs, accuracy; {ours}", title, *text, None, "s2h")


def depthwise() -> Iterator[Row]:
    """Depthwise layers as an integer program."""
    file = "cnn_depthwise"
    rows = {(r["ratio"], r["method"]): r for r in load(file, "rows")}
    for ratio in sorted({r for r, _ in rows}):
        ours, theirs = rows.get((ratio, "ours: latency <= HSR")), rows.get((ratio, "HSR"))
        if ours and theirs:
            what = f"depthwise layers, {ratio:.0%} pruned, lost energy at no more latency (a model)"
            yield _less(what, "HSR", ours["lost"], theirs["lost"], file)


def tickets() -> Iterator[Row]:
    """The published subset-sum ticket."""
    file, held = "lottery_subset", load("lottery_subset")
    size, published = held["size"]["figures"]["0.01"], held["error"]["figures"]["published"]
    cores = published["cores"]
    what = "397,000 subset sums, tolerance 0.01"
    ours = size["load, group and search seconds"] + size["proof seconds"]
    yield _less(
        f"{what}: time (ours one core, with proof)",
        f"Gurobi, published, {cores} cores",
        ours,
        published["seconds"],
        file,
        "s",
    )
    pair = size["kept per weight"], published["kept per weight"]
    yield _less(
        f"{what}: kept for each weight (the peer minimises the error instead)", "Gurobi, published", *pair, file
    )
    for name, row in held["milp"]["figures"].items():
        text = f"{row['agree']} of {row['sampled']} sizes agree"
        yield Row(
            f"subset sums, {name.split(' at ')[1]}",
            name.split(" at ")[0],
            text,
            f"{row['milliseconds each']:.3g} ms each",
            None,
            file,
        )


PARTS: tuple[Callable[[], Iterator[Row]], ...] = (
    cut, forests, layers, models, allocation, heads, embeddings, masks, networks, depthwise, widths, tickets,
)  # fmt: skip


def rows() -> tuple[list[Row], list[str]]:
    """Return all comparisons on file, and what is not there."""
    found: list[Row] = []
    missing = []
    for part in PARTS:
        title = (part.__doc__ or part.__name__).rstrip(".")
        try:
            mine = list(part())
        except (FileNotFoundError, KeyError) as error:
            missing.append(f"{title} ({error})")
            continue
        found += mine
        if not mine:
            missing.append(title)
    return found, missing


def markdown() -> str:
    """Return the table."""
    found, missing = rows()
    heads = ["what", "peer", "prunopt", "the peer", "ratio", "raw figures"]
    lines = [heads, ["---"] * len(heads), *(row.cells() for row in found)]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return text + (f"\n\nNot on file: {'; '.join(missing)}." if missing else "")


if __name__ == "__main__":
    print(markdown())
