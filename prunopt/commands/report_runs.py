"""From the folders that commands write to the pages of `prunopt report`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prunopt.commands.forest_best import SCORES, worth_showing
from prunopt.commands.output import number
from prunopt.commands.report_page import Column, Page, Sheet
from prunopt.core.files import read_json
from prunopt.core.validate import Shown, refuse, require
from prunopt.networks.transformers.figures import figure_rows


def read_run(folder: Path) -> Page:
    """Return the page of a saved run.

    Raises
    ------
    ValueError
        If the folder is none that a command of prunopt wrote, or what is in it cannot be read.
    """
    require(folder.is_dir(), "FOLDER", "be a folder that a command wrote with --out", Shown(folder))
    held = {name: _read(folder / name) for name in FILES if (folder / name).is_file()}
    report, manifest = held.get("report.json", {}), held.get("prunopt.json", {})
    try:
        if "model.json" in held:
            return _model(folder, held["model.json"])
        if "heads.json" in held:
            return _heads(folder, held["heads.json"])
        if "ticket.json" in held:
            return _ticket(held["ticket.json"])
        if "path" in report:
            return _forest(folder, report)
        if "columns" in report:
            return _search(folder, report)
        if manifest.get("kind") == "cnn":
            return _cnn(folder, manifest["report"])
        if "shapes" in manifest:
            return _transformer(folder, manifest)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{folder}: not as a command of this version writes it ({error!r})") from error
    refuse("FOLDER", "hold what forest, prune, heads, cnn, search or lottery wrote with --out", Shown(folder))


FILES = "model.json", "report.json", "prunopt.json", "heads.json", "ticket.json"


def _read(file: Path) -> dict[str, Any]:
    found = read_json(file)
    require(isinstance(found, dict), str(file), "hold a JSON object", Shown(type(found).__name__))
    return dict(found)


def _plot(name: str, *data: Any, **options: Any) -> Callable[[Any], Any]:
    """Return what draws data by a function of `prunopt.plots`, which is loaded when it draws."""

    def draw(ax: Any) -> Any:
        from prunopt import plots

        return getattr(plots, name)(*data, ax, **options)

    return draw


def _number(value: Any, digits: int = 4) -> str:
    return "-" if value is None else number(float(value), digits)


def _heads_of(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(key.replace("_", " ") for key in row)


def _proven(status: str, objective: Any, bound: Any, solver: str) -> str:
    """One sentence: how good an answer is known to be."""
    if bound is None or not math.isfinite(float(bound)):
        return f"{solver}: {status.lower()}, objective {_number(objective, 6)}. No bound: nothing is proven about it."
    gap = abs(float(objective) - float(bound)) / max(1e-12, abs(float(objective)))
    told = f"{solver}: {status.lower()}, objective {_number(objective, 6)}, lower bound {_number(bound, 6)}"
    return f"{told}, relative gap {gap:.1e}." if gap else f"{told}: no better answer exists."


def _model(folder: Path, r: dict[str, Any]) -> Page:
    unit, found, score = r["currency"] or "units", r["unseen_rows"], SCORES.get(r["score"], r["score"])
    who = "patient" if r["data"] in ("heart", "hypothyroid") else "row"
    page = Page(f"The best model within a budget: {r['data']}", "prunopt forest")
    page.lead = [
        (
            f"cost on unseen rows, {unit} per {who}",
            f"{found['cost']:.2f}",
            f"default forest {found['default_cost']:.2f}",
        ),
        (f"{score} there", f"{found['score']:.3f}", f"default forest {found['default_score']:.3f}"),
        ("difference", f"{found['difference']:+.3f}", f"95 %: {found['low']:+.3f} to {found['high']:+.3f}"),
    ]
    page.facts = [
        ("chosen", r["chosen"]["name"]),
        ("budget", "none" if r["budget"] is None else f"{r['budget']:g} {unit} per {who}"),
        ("rows", f"{r['rows']}, in {found['folds']} folds, repeated {found['repeats']} times"),
        ("seed", str(r["seed"])),
    ]
    page.certificate = ["Chosen by repeated cross-fitting: no optimum is claimed, and none is proven."]
    columns: dict[str, Column] = {
        "": lambda c: "chosen" if c["name"] == r["chosen"]["name"] else "",
        f"{unit} per {who}": lambda c: f"{c['cost']:.2f}",
        score: lambda c: f"{c['score']:.3f}",
        "less default forest": lambda c: f"{c['difference']:+.3f} ± {c['standard_error']:.3f}",
        "model": lambda c: c["name"],
    }
    everywhere = [i for i, c in enumerate(r["candidates"]) if c["name"] == r["chosen"]["name"]]
    worth = worth_showing(r)
    marked = [i for i, c in enumerate(worth) if c["name"] == r["chosen"]["name"]]
    caption = f"All {len(r['candidates'])} candidates"
    page.sheets = [
        Sheet.of("Candidates that no cheaper one equals, and the default forest", worth, columns, (0, 4), marked),
        replace(Sheet.of(caption, r["candidates"], columns, (0, 4), everywhere), folded=True),
    ]
    page.picture(folder, "tradeoff.png", "What cost buys")
    return page


def _forest(folder: Path, r: dict[str, Any]) -> Page:
    from prunopt.commands.forest_report import proof, shown_rows, size_lines, with_penalties

    r = with_penalties(r)
    unit, score, chosen, whole = r["currency"] or "units", r["score"], r["chosen"], r["unpruned"]
    who = "patient" if r["data"] in ("heart", "hypothyroid") else "row"
    rows, k = r["path"], chosen["point"]

    within = "none" if r["budget"] is None else f"{r['budget']:g} {unit} per {who}"
    page = Page(f"A forest under a feature budget: {r['data']}", "prunopt forest")
    error = f"standard error {chosen['test_standard_error']:.3f}; " if score == "accuracy" else ""
    page.lead = [
        (f"cost, {unit} per {who}", f"{chosen['cost']:.2f}", f"unpruned {whole['cost']:.2f}"),
        (f"test {score}", f"{chosen['test_score']:.3f}", f"{error}unpruned {whole['test_score']:.3f}"),
        ("internal nodes", str(chosen["nodes"]), f"unpruned {whole['nodes']}"),
    ]
    page.facts = [
        ("rows", ", ".join(f"{n} {part}" for part, n in r["rows"].items())),
        ("budget", " ".join(size_lines(r, unit, who)) or within),
        ("all features", f"{r['cost_of_all_features']:g} {unit}"),
        ("seed", str(r["seed"])),
    ]
    page.certificate = [proof(r, unit, who)]
    splits = r["splits"]
    if splits:
        page.facts.append(
            (
                f"mean over {splits['number']} random splits",
                f"{chosen['mean_test_score_over_splits']:.3f} (standard deviation "
                f"{splits['standard_deviation_at_the_chosen_cost']:.3f}); "
                f"unpruned {splits['unpruned_mean_test_score']:.3f}",
            )
        )
    columns: dict[str, Column] = {
        "": lambda p: "chosen" if p is mine else "",
        "penalty": lambda p: p["penalty"] if isinstance(p["penalty"], str) else _number(p["penalty"], 3),
        **({r["size"]: lambda p: _number(p["size"], 4) if "size" in p else ""} if "size" in r else {}),
        f"{unit} per {who}": lambda p: f"{p['cost']:.2f}",
        f"validation {score}": lambda p: f"{p['validation_score']:.3f}" if "validation_score" in p else "",
        f"test {score}": lambda p: f"{p['test_score']:.3f}",
        **({f"{splits['number']} splits": lambda p: f"{p['mean_test_score_over_splits']:.3f}"} if splits else {}),
        "nodes": "nodes",
        "gap": lambda p: f"{p['gap']:.1e}" if p.get("gap") else "0" if "gap" in p else "",
        "features acquired": lambda p: ", ".join(p.get("features", [])),
    }
    mine = chosen | {"penalty": "budget"} if k is None else rows[k]
    grown = whole | {"penalty": "unpruned"}
    if splits:
        grown["mean_test_score_over_splits"] = splits["unpruned_mean_test_score"]

    def sheet(caption: str, points: list[Any], folded: bool = False) -> Sheet:
        points = sorted([*points, *([mine] if k is None else [])], key=lambda p: -float(p["cost"]))
        texts = (0, len(columns) - 1)
        made = Sheet.of(caption, [grown, *points], columns, texts, [1 + points.index(mine)])
        return replace(made, folded=folded)

    part = [rows[i] for i in shown_rows(len(rows), k)]
    few = len(part) < len(rows)
    page.sheets = [sheet(f"{len(part)} of {len(rows)} optimal prunings" if few else "Every optimal pruning", part)]
    if few:
        page.sheets.append(sheet(f"All {len(rows)} optimal prunings", rows, folded=True))
    lines = {f"test {score}": ([p["test_cost"] for p in rows], [p["test_score"] for p in rows])}
    curve = _plot("pareto", lines, unit=unit, who=who, measure=score)
    page.picture(folder, "pareto.png", "Cost against error: every optimal pruning", curve)
    page.picture(folder, "features.png", "Features acquired at each budget")
    page.picture(folder, "trees.png", "The trees before and after")
    return page


def _loads_with(m: dict[str, Any]) -> str:
    if m["stock"]:
        return "from_pretrained of transformers"
    remote = "from_pretrained with trust_remote_code=True, or " if m.get("remote_code") else ""
    return f"{remote}prunopt.networks.load (blocks differ)"


def _transformer(folder: Path, m: dict[str, Any]) -> Page:
    o, rows = m["options"], m["report"]
    page = Page(f"A transformer made smaller: {folder.resolve().name}", "prunopt prune")
    figures = figure_rows(m.get("evaluation", {}))
    page.lead = [
        ("parameters of the blocks removed", f"{m['sparsity']:.2%}", f"{m['removed']:,} of {m['total']:,}"),
        *((name, after, f"before {before}") for name, before, after in figures),
    ]
    page.facts = [
        ("asked for", f"{m['target']:,} parameters"),
        ("what", o["pattern"] or "whole " + " and ".join(o["units"])),
        ("method", f"{o['method']}, allocation {o.get('allocation', 'by heads')}, seed {o['seed']}"),
        ("loads with", _loads_with(m)),
        ("weights (SHA-256)", str(m["weights"])),
        *((name, str(text)) for name, text in m["versions"].items()),
    ]
    bounded = [r for r in rows if r["bound"] is not None]
    gaps = [float(r["gap"]) for r in bounded if r["gap"] is not None]
    page.certificate = [
        f"{len(bounded)} of {len(rows)} layers come with a proven lower bound on their error"
        + (f"; the largest gap is {max(gaps):.1e}." if gaps else "."),
        "Errors are those of each layer's outputs on the calibration text, ||WX - W'X||^2 / ||WX||^2, the weights that "
        f"stay {'re-solved' if o.get('refit', True) else 'unchanged'}. `prunopt verify` recomputes them.",
    ]
    columns: dict[str, Column] = {
        "layer": "name",
        "method": "method",
        "kept": lambda r: f"{r['kept']} of {r['total']}",
        "unit": "unit",
        "relative error": lambda r: _number(r["error"], 3),
        "bound": lambda r: _number(r["bound"], 3),
        "gap": lambda r: _number(r["gap"], 2),
        "damping": lambda r: _number(r["damping"], 2),
        "seconds": lambda r: f"{r['seconds']:.1f}",
        "message": "message",
    }
    page.sheets = [Sheet.of("Layer by layer", rows, columns, (0, 1, 3, 9))]
    page.notes = list(m["notes"])
    kinds = list(dict.fromkeys(r["name"].rpartition(".")[2] for r in rows))
    lines = {k: [1 - r["kept"] / r["total"] for r in rows if r["name"].rpartition(".")[2] == k] for k in kinds}
    if lines and len({len(line) for line in lines.values()}) == 1:
        page.picture(folder, "", "Sparsity by block", _plot("sparsity_by_layer", lines))
    if o["pattern"]:
        _mask(page, folder, [str(r["name"]) for r in rows])
    return page


def _mask(page: Page, folder: Path, layers: Sequence[str]) -> None:
    """Draw which weights of the middle layer stay."""
    name = layers[len(layers) // 2]
    try:
        from prunopt.networks.io.shards import TensorFiles

        ((_, weight),) = TensorFiles(folder).read({name: f"{name}.weight"})
        kept = (weight != 0).numpy()
    except (ImportError, OSError, ValueError, KeyError) as error:
        page.notes.append(f"the mask of {name} is not drawn: {error}")
        return
    page.picture(folder, "", f"Where the weights of {name} stay", _plot("mask_density", kept))


def _heads(folder: Path, r: dict[str, Any]) -> Page:
    losses, times, counts = r["loss"], r["milliseconds"], r["n_heads"]
    page = Page(f"Attention heads: {folder.resolve().name}", "prunopt heads")
    last = "held_out" if "held_out" in losses else "calibration"
    change = f"before {_number(losses[last]['dense'])}"
    page.lead = [
        ("heads kept", f"{r['heads_kept']} of {sum(counts)}", r["budget"]),
        (f"{losses['measure']}, {last.replace('_', ' ')}", _number(losses[last]["removed"]), change),
        ("time of one pass", f"{times['pruned']:.1f} ms", f"before {times['dense']:.1f} ms: {r['speed_up']:.2f} x"),
        ("parameters removed", f"{r['parameters_removed']:,}", ""),
    ]
    page.facts = [
        ("budget used", f"{r['used']:g}"),
        ("losses evaluated", str(r["stats"].get("evaluations", "-"))),
    ]
    page.certificate = [_proven(r["status"], r["objective"], r["bound"], r["solver"])]
    if r["message"]:
        page.certificate.append(f"The solver says: {r['message']}.")
    states = ("dense", "masked", "removed")
    cells = [
        (part.replace("_", " "), *(_number(losses[part][s]) for s in states))
        for part in ("calibration", "held_out")
        if part in losses
    ]
    page.sheets.append(Sheet(str(losses["measure"]), ("rows", *states), cells))
    start, cells = 0, []
    for layer, n in enumerate(counts):
        mine = r["kept"][start : start + n]
        cells.append((str(layer), f"{sum(mine)} of {n}", " ".join(str(h) for h, stays in enumerate(mine) if stays)))
        start += n
    page.sheets.append(Sheet("Layer by layer", ("layer", "kept", "heads that stay"), cells, (0, 2)))
    page.notes = [*r["notes"], *([r["advice"]] if r["advice"] else [])]
    worth = _plot("head_map", r["importance"], counts, kept=r["kept"], label=r["estimator"])
    page.picture(folder, "importance.png", "What heads are worth; crossed out: removed", worth)
    lines = {name: (x, y) for name, (x, y) in r.get("curve", {}).items()}
    curve = _plot("head_curves", lines, measure=losses["measure"], total=sum(counts))
    page.picture(folder, "curve.png", "Loss against the heads that stay", curve if lines else None)
    page.picture(folder, "", "Time before and after", _plot("latency", times), height=2.2)
    return page


def _cnn(folder: Path, r: dict[str, Any]) -> Page:
    page = Page(f"A convolutional network made smaller: {r['model'] or folder.resolve().name}", "prunopt cnn")
    page.facts = [("method", r["method"])]
    uses = r.get("budgets") or ([r | {"resource": r.get("resource", "milliseconds")}] if r.get("total") else [])
    for use in uses:
        amount = f"{_number(use['used'], 6)} of {_number(use['total'], 6)}"
        page.lead.append((use["resource"], f"{use['used'] / use['total']:.1%}", amount))
    accuracy = {name.replace("_", " "): f"{value:.1%}" for name, value in (r.get("accuracy") or {}).items()}
    if "after" in accuracy:
        before = ", ".join(f"{name} {value}" for name, value in accuracy.items() if name != "after")
        page.lead.append(("accuracy", accuracy["after"], before))
    page.lead += [
        (name.replace("_", " "), _number(value), "measured") for name, value in (r.get("measured") or {}).items()
    ]
    page.certificate = [_proven(r["status"], r["objective"], r["bound"], r["solver"])]
    if r["bound"] is not None:
        page.certificate.append(
            "The proof is about the sum of the groups' losses under the budget, as the table gives "
            "them; what the network itself loses is measured, not proven."
        )
    page.notes = [str(line) for line in r.get("notes", [])]
    groups = r.get("groups", [])
    if groups:
        last = "loss" if "loss" in groups[0] else "expected"
        cells = [(g["group"], str(g["before"]), str(g["after"]), _number(g[last], 3)) for g in groups]
        page.sheets.append(Sheet("Widths", ("channels of", "before", "after", last), cells))
        names = [str(g["group"]) for g in groups] if len(groups) <= 30 else None
        sizes = [g["before"] for g in groups], [g["after"] for g in groups]
        widths = _plot("before_after", *sizes, what="channels", part="group of layers", names=names)
        page.picture(folder, "", "Channels before and after", widths)
    if r.get("windows"):
        rows = [(layer, f"{shape[0]} x {shape[1]}") for layer, shape in r["windows"].items()]
        page.sheets.append(Sheet("Windows", ("layer", "kernel that stays"), rows))
    return page


def _search(folder: Path, r: dict[str, Any]) -> Page:
    from prunopt.study.pictures import draw_column, draw_front

    page = Page(f"Sparsity over blocks: {Path(r['model']).name}", "prunopt search")
    first = r["columns"][0]
    best = min((row["loss"], name) for name, row in first["rows"].items())
    even = first["rows"].get("uniform", {}).get("loss")
    page.lead = [
        ("sparsity", f"{first['sparsity']:g}", f"of {r['weights']:,.0f} weights of the blocks"),
        (
            f"{r['measure']}, nats per token",
            _number(best[0]),
            f"{best[1]}; uniform {_number(even)}, dense {_number(r['dense'])}",
        ),
        ("trials", str(first["trials"]), f"{first['evaluations']} evaluated"),
    ]
    page.facts = [
        ("storage", str(r["storage"])),
        ("best at the first sparsity", f"{r['method']}"),
    ]
    page.certificate = [
        "A black-box search: no bound, so nothing is proven about its distance from the best allocation. Every "
        "allocation meets its sparsity (to 1e-9), and every loss was measured on the same text."
    ]
    for c in r["columns"]:
        ranked = sorted(c["rows"].items(), key=lambda item: float(item[1]["loss"]))
        cells = [
            (
                name,
                _number(row["loss"], 6),
                f"{min(row['allocation']):.3f}",
                f"{max(row['allocation']):.3f}",
                str(row.get("found", "")),
            )
            for name, row in ranked
        ]
        caption = f"{c['sparsity']:g} removed: {c['trials']} trials, {c['evaluations']} evaluated"
        heads = ("method", r["measure"], "least", "most", "expression")
        page.sheets.append(Sheet(caption, heads, cells, (0, 4), (0,)))
        name, title = f"sparsity-by-layer-{c['sparsity']:g}.png", f"Sparsity by block, {c['sparsity']:g} removed"
        page.picture(folder, name, title, partial(draw_column, c, r["measure"]))
    page.picture(folder, "front.png", "Loss against size", lambda ax: draw_front(r, ax))
    return page


def _ticket(r: dict[str, Any]) -> Page:
    counts, proof = r["counts"], r["certificate"]
    page = Page(f"A lottery ticket: {r['target']}", "prunopt lottery")
    page.lead = [
        (
            "parameters kept",
            f"{counts['kept']:,}",
            f"of {counts['sampled']:,} sampled, for {counts['target_weights']:,} weights",
        ),
        ("output error, proven", _number(proof["error_bound"]), f"inputs up to norm {proof['radius']:g}"),
        ("output error, measured", _number(r["measured_error"]), f"{r['inputs_measured']:,} inputs"),
    ]
    if r["target_accuracy"] is not None:
        page.lead.append(("accuracy", f"{r['sub_network_accuracy']:.4f}", f"target {r['target_accuracy']:.4f}"))
    page.facts = [
        ("construction", f"{r['construction']}, tolerance {r['epsilon']:g}, seed {r['seed']}"),
    ]
    page.certificate = [
        f"For every input up to norm {proof['radius']:g} the outputs differ by at most {_number(proof['error_bound'])} "
        f"({_number(proof['a_priori_bound'])} known before solving). No weight is off by more than "
        f"{_number(proof['largest_weight_error'])}.",
        "The number of kept second weights is the least possible."
        if r["status"] == "OPTIMAL"
        else f"The number of kept weights is not proven least ({r['status'].lower()}).",
    ]
    layers = [tuple(_number(v) if isinstance(v, float) else str(v) for v in row.values()) for row in proof["layers"]]
    page.sheets.append(Sheet("The bound, layer by layer", _heads_of(proof["layers"][0]), layers))
    drawn = [tuple(_number(v) if isinstance(v, float) else str(v) for v in row.values()) for row in r["random_network"]]
    page.sheets.append(Sheet("The random network", _heads_of(r["random_network"][0]), drawn))

    def kept(ax: Any) -> Any:
        from prunopt.plots import before_after

        sizes = [counts["sampled"], counts["neurons_sampled"]], [counts["kept"], counts["neurons_kept"]]
        names = ["parameters", "neurons"]
        before_after(*sizes, ax, what="number", part="of the random network", names=names, labels=("sampled", "kept"))
        ax.set_yscale("log")
        return ax

    page.picture(Path(), "", "What is sampled, and what is kept", kept)
    return page
