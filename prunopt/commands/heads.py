"""``prunopt heads``: which attention heads stay, what that loses, and how much faster the smaller model is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.output import guarded, note, number, print_json, progress, table
from prunopt.core import validate
from prunopt.core.budget import Budget, BudgetUse

if TYPE_CHECKING:
    from prunopt.core.solution import Solution
    from prunopt.networks.heads import HeadLoss

METHODS = ("surrogate", "swap", "greedy", "head-importance", "enumeration")
RESOURCES = ("heads", "parameters", "memory", "kv_cache", "latency_ms")
ESTIMATORS = ("example-abs", "token-abs", "batch-abs")
CURVE = {"example-abs": False, "example-abs, l2 (paper)": True}
FEW, SCREEN = 24, 10
Tell = Callable[[str], None]


@guarded
def heads(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, minilm or smollm2.")],
    data: Annotated[Path, typer.Option(help="Text; for classifiers lines of text<TAB>label.")],
    out: Annotated[Path, typer.Option(help="Folder for the pruned model, heads.json and pictures.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="heads=0.6, heads=14, latency_ms=0.8x, parameters=20M, memory=80MB, kv_cache=0.7: of the whole model; "
            "several are met at once."
        ),
    ] = None,
    keep: Annotated[float | None, typer.Option(help="Short for --budget heads=: a fraction, or a number >= 1.")] = None,
    resource: Annotated[str, typer.Option(help="Old: what --keep is a fraction of; use --budget.")] = "heads",
    method: Annotated[str, typer.Option(help=", ".join(METHODS) + ".")] = "surrogate",
    estimator: Annotated[str, typer.Option(help=", ".join(ESTIMATORS) + ".")] = "example-abs",
    one_per_layer: Annotated[bool, typer.Option(help="Every layer keeps a head.")] = False,
    repair: Annotated[bool, typer.Option(help="Re-solve output projections by least squares.")] = True,
    examples: Annotated[int, typer.Option(help="Lines or windows to choose on; as many more to judge on.")] = 64,
    length: Annotated[int, typer.Option(help="Tokens in a window, at most in a line.")] = 128,
    screen: Annotated[
        int | None, typer.Option(help="Heads tried at a greedy step. [default: 10, all of up to 24]")
    ] = None,
    evaluations: Annotated[int | None, typer.Option(help="Stop the solver after so many losses.")] = None,
    curve: Annotated[bool, typer.Option(help="Measure the loss of the methods at ten sizes, too.")] = True,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose the attention heads with which a model loses least on data, and remove the others for good.

    The loss fits the model: next tokens for language models, cross-entropy for classifiers, the distance of embeddings
    to the dense model's for encoders. Heads that share a key-value head go together. No method but enumeration proves
    its answer, since a loss may fall when a head goes.
    """
    _check(method, resource, estimator, screen)
    wanted = _wanted(budget, keep, resource)
    plain = method == METHODS[0] or not _together(wanted)
    mend = "they are met by one choice of each layer's number of heads"
    validate.require(plain, "--method", "be left out with several budgets, memory or kv_cache", method, mend)
    from prunopt.networks.io.folders import check_target

    check_target(out)
    from prunopt.networks.heads.data import read_head_data
    from prunopt.networks.heads.head_loss import HeadLoss
    from prunopt.networks.transformers.reading import read_model

    estimates.heads(model, examples=examples, length=length)
    with progress(
        "heads", total=5 + any(b.resource == "latency_ms" for b in wanted) + curve * 9 * (len(CURVE) + 1)
    ) as tell:
        tell("reading the model")
        network, tokenizer = read_model(model)
        screen = _screened(network) if screen is None else screen
        found = read_head_data(network, tokenizer, data, examples=examples, length=length)
        loss = HeadLoss(network, found.calibration, found.loss, estimator=estimator, remember=True)
        summary, pruned = _chosen(
            network,
            loss,
            found,
            tell,
            budgets=wanted,
            keep=keep,
            method=method,
            one_per_layer=one_per_layer,
            repair=repair,
            screen=screen,
            evaluations=evaluations,
            seed=seed,
        )
        if curve:
            summary["curve"] = _curve(loss, screen, tell)
        tell("writing")
        pruned.save(out, tokenizer)
        summary["written"] = _write(out, summary, loss)
    if as_json:
        print_json(summary)
        return
    if not summary["written"]["pictures"]:
        note("no pictures: they need matplotlib (pip install 'prunopt[plot]')")
    _show(summary)


def _check(method: str, resource: str, estimator: str, screen: int | None) -> None:
    for name, value, known in (
        ("method", method, METHODS),
        ("resource", resource, RESOURCES),
        ("estimator", estimator, ESTIMATORS),
    ):
        validate.one_of(f"--{name}", value, known)
    if screen is not None:
        validate.whole_number("--screen", screen, low=1)


def _wanted(budget: list[str] | None, keep: float | None, resource: str) -> list[Budget]:
    """Return the budgets; with the old ``--resource`` its share is of the heads' cost, not of the whole model's."""
    given = validate.Shown(f"--budget {' '.join(budget) if budget else None}, --keep {keep}")
    validate.require(bool(budget) != (keep is not None), "--budget", "be given, or --keep, not both", given)
    if budget:
        wanted = Budget.several(budget, RESOURCES)
        for one in wanted:
            if one.resource == "heads" and one.limit is not None:
                validate.whole_number("--budget heads", one.limit, low=0)
        return wanted
    share = validate.number("--keep", keep, low=0, open_ends="(")
    if resource != "heads":
        note(f"--resource {resource} goes with the next release: use --budget {resource}=..., of the whole model")
    if share < 1:
        return [Budget(resource, share=share)]
    validate.require(resource == "heads", "--keep", f"be a fraction within (0, 1) of {resource}", share)
    return [Budget("heads", validate.whole_number("--keep", share, mend="pass a fraction below 1, or so many heads"))]


def _screened(network: Any) -> int | None:
    """All heads at each greedy step would take n^2 / 2 losses: ten where there are many."""
    from prunopt.networks.heads.layers import head_layers

    return SCREEN if sum(layer.n_groups for layer in head_layers(network)) > FEW else None


def _check_enumeration(method: str, task: Any) -> None:
    from prunopt.forms.subset.subset_choice import MOST_ENUMERATED, EnumerableChoice

    if method == "enumeration" and not isinstance(task.form, EnumerableChoice):
        many = validate.Shown(f"{task.form.n_items} heads (groups) with {task.form.n_raw:.3g} selections")
        validate.refuse(
            "--method enumeration", f"have up to {MOST_ENUMERATED:,} selections", many, "pass another method"
        )


def _chosen(network: Any, loss: HeadLoss, found: Any, tell: Tell, **options: Any) -> tuple[dict[str, Any], Any]:
    """Solve, remove, judge and time; returns what to print and the pruned model."""
    import numpy as np

    from prunopt.networks.heads.costs import even_batch, time_models
    from prunopt.networks.heads.head_loss import HeadLoss
    from prunopt.networks.heads.surgery import prune_heads

    solution, budget, used, uses = _solved(network, loss, found, tell, options)
    whole = np.ones(sum(loss.n_heads), np.bool_)
    tell("removing heads")
    pruned = prune_heads(
        network,
        solution.value,
        batches=found.calibration,
        repair=options["repair"],
        objective=solution.objective,
        method=solution.solver,
        seed=options["seed"],
    )
    small = HeadLoss(pruned.model, found.calibration, found.loss)
    rest = np.ones(sum(small.n_heads), np.bool_)
    judged: dict[str, Any] = {
        "measure": found.measure,
        "calibration": {"dense": loss(whole), "masked": solution.objective, "removed": small(rest)},
    }
    if found.held_out:
        dense, few = (HeadLoss(m, found.held_out, found.loss) for m in (network, pruned.model))
        judged["held_out"] = {"dense": dense(whole), "masked": dense(solution.value), "removed": few(rest)}
    judge = judged.get("held_out", judged["calibration"])
    advice = ""
    if options["repair"] and judge["removed"] > judge["masked"]:
        advice = "the repair raised the loss on text that it has not seen: try --no-repair, or more --examples"
        if "held_out" not in judged:
            advice = "the repair aims at the dense model's outputs, and raised the loss: try --no-repair"
    tell("timing")
    times = time_models({"dense": network, "pruned": pruned.model}, even_batch(found.calibration), repeats=9)
    summary = {
        "n_heads": list(loss.n_heads),
        "kept": solution.value,
        "heads_kept": int(solution.value.sum()),
        "budget": budget,
        "used": used,
        "budgets": [asdict(use) for use in uses],
        "solver": solution.solver,
        "status": solution.status.name,
        "objective": solution.objective,
        "bound": solution.bound,
        "message": solution.message,
        "stats": dict(solution.stats),
        "loss": judged,
        "milliseconds": times,
        "speed_up": times["dense"] / times["pruned"],
        "parameters_removed": pruned.removed,
        "notes": list(pruned.notes),
        "importance": loss.scores(whole),
        "estimator": loss.scores_name,
        "advice": advice,
    }
    return summary, pruned


def _together(budgets: list[Budget]) -> bool:
    """Whether budgets are met by the choice of each layer's number of heads."""
    return len(budgets) > 1 or budgets[0].resource in ("memory", "kv_cache")


def _solved(
    network: Any, loss: HeadLoss, found: Any, tell: Tell, options: dict[str, Any]
) -> tuple[Solution[Any], str, float, tuple[BudgetUse, ...]]:
    """Return the heads that stay with what the masked model loses, the budget in words, and what is used of it."""
    import prunopt as po

    budgets = options["budgets"]
    if not _together(budgets):
        task = _task(network, loss, found, tell, options)
        _check_enumeration(options["method"], task)
        tell(f"choosing heads with {options['method']}")
        limits = po.Limits(evaluations=options["evaluations"])
        solver = _solver(options["method"], options["screen"])
        one = po.solve(task, solver, limits=limits, seed=options["seed"])
        return one, task.budget.describe(), task.used(one.value), ()
    from prunopt.networks.heads.several_budgets import head_costs, heads_within

    tell("costs of heads")
    costs = head_costs(network, list(dict.fromkeys(b.resource for b in budgets)), found.calibration)
    tell("measuring what layers lose")
    within = heads_within(loss, costs, budgets, at_least_one_per_layer=options["one_per_layer"])
    proof = within.solution
    message = f"the least sum of the layers' losses, {proof.objective:.4g}, proven to {proof.gap:.1e}"
    masked = loss(within.kept)  # what its losses add up to is proven, not this
    kept = replace(
        proof, value=within.kept, objective=masked, bound=-math.inf, status=po.Status.FEASIBLE, message=message
    )
    return kept, ", ".join(map(str, budgets)), within.budgets[0].used, within.budgets


def _task(network: Any, loss: HeadLoss, found: Any, tell: Tell, options: dict[str, Any]) -> Any:
    from prunopt.networks.heads.costs import even_batch, head_milliseconds
    from prunopt.networks.heads.surgery import attention_parameters
    from prunopt.problems import HeadSelection

    budget, keep = options["budgets"][0], options["keep"]
    more: dict[str, Any] = {"heads_per_group": loss.heads_per_group, "at_least_one_per_layer": options["one_per_layer"]}
    if budget.resource == "heads":
        part = budget.share if budget.share is not None and budget.share < 1 else int(budget.allowed(sum(loss.n_heads)))
        return HeadSelection.from_loss(loss, loss.n_heads, part, **more)
    if budget.resource == "parameters":
        cost = attention_parameters(network)
        fixed = sum(p.numel() for p in network.parameters()) - float(cost.sum())
    else:
        tell("timing heads")
        times = head_milliseconds(network, even_batch(found.calibration), repeats=9)
        cost, fixed = times.cost, times.fixed
    total = float(cost.sum())
    limit = budget.allowed(fixed + total) if keep is None else fixed + keep * total
    budget = Budget(budget.resource, limit, fixed + total)
    return HeadSelection.from_loss(loss, loss.n_heads, budget, cost=cost, fixed=fixed, **more)


def _solver(method: str, screen: int | None) -> Any:
    from prunopt.solvers.subset.greedy import Greedy
    from prunopt.solvers.subset.surrogate import Surrogate
    from prunopt.solvers.subset.swap import Swap

    screened: dict[str, Any] = {"surrogate": Surrogate, "swap": Swap, "greedy": Greedy}
    return screened[method](screen=screen) if method in screened else method


def _curve(loss: HeadLoss, screen: int | None, tell: Tell) -> dict[str, Any]:
    """The loss of the estimates and of greedy at 90 %, 80 % ... of the heads; remembered losses cost nothing."""
    import prunopt as po
    from prunopt.problems import HeadSelection

    total, out = sum(loss.n_heads), {name: [[], []] for name in (*CURVE, "greedy")}  # type: ignore[var-annotated]
    estimator, normalise = loss.estimator, loss.normalise
    group = max(loss.heads_per_group)
    try:
        for share in range(9, 0, -1):
            keep = max(group, share * total // 10 // group * group)
            for name in out:
                tell(f"curve: {name}, {keep} heads")
                loss.estimator, loss.normalise = "example-abs", CURVE.get(name, False)
                task = HeadSelection.from_loss(loss, loss.n_heads, keep, heads_per_group=loss.heads_per_group)
                solver = _solver("greedy", screen) if name == "greedy" else "head-importance"
                solution = po.solve(task, solver)
                out[name][0].append(int(solution.value.sum()))
                out[name][1].append(solution.objective)
    finally:
        loss.estimator, loss.normalise = estimator, normalise
    return out


def _write(out: Path, summary: dict[str, Any], loss: HeadLoss) -> dict[str, Any]:
    """Write heads.json and, with matplotlib, the pictures."""
    from prunopt.commands.output import plain
    from prunopt.core.files import write_atomically, write_json
    from prunopt.plots import MissingExtra, head_curves, head_map

    write_json(out / "heads.json", plain(summary))
    written: dict[str, Any] = {"folder": str(out), "pictures": []}
    try:
        pictures: dict[str, Any] = {
            "importance.png": head_map(
                summary["importance"], loss.n_heads, kept=summary["kept"], label=summary["estimator"]
            )
        }
        if "curve" in summary:
            curves = {name: (x, y) for name, (x, y) in summary["curve"].items()}
            curves[f"{summary['solver']} (chosen)"] = ([summary["heads_kept"]], [summary["objective"]])
            measure = summary["loss"]["measure"]
            pictures["curve.png"] = head_curves(curves, measure=measure, total=sum(loss.n_heads))
    except MissingExtra:
        return written
    from matplotlib import pyplot

    for name, ax in pictures.items():
        figure = ax.get_figure()
        with write_atomically(out / name) as temporary:
            figure.savefig(temporary, dpi=150)
        pyplot.close(figure)
        written["pictures"].append(name)
    return written


def _show(summary: dict[str, Any]) -> None:
    start, rows = 0, []
    for layer, n in enumerate(summary["n_heads"]):
        mine = summary["kept"][start : start + n]
        rows.append([str(layer), "".join("#" if k else "." for k in mine), f"{int(mine.sum())} of {n}"])
        start += n
    print(table(["layer", "heads (# stays)", "kept"], rows, left=[1]))
    for use in summary["budgets"]:
        print(BudgetUse(**use).describe("of the loss"))
    if not summary["budgets"]:
        print(f"Budget: {summary['budget']}; used {summary['used']:g}.")
    print(f"{summary['solver']}: {summary['status'].lower()}, {summary['message']}.")
    losses = summary["loss"]
    lines = [
        [name.replace("_", " "), *(number(losses[name][state], 4) for state in ("dense", "masked", "removed"))]
        for name in ("calibration", "held_out")
        if name in losses
    ]
    print(
        table(
            [losses["measure"], "dense", "masked", "removed, repaired" if summary["notes"] else "removed"],
            lines,
            left=[0],
        )
    )
    if summary["advice"]:
        note(summary["advice"])
    times = summary["milliseconds"]
    print(
        f"{times['dense']:.1f} ms -> {times['pruned']:.1f} ms on one thread: {summary['speed_up']:.2f} x; "
        f"{summary['parameters_removed']:,} parameters removed."
    )
    print(f"Written: {summary['written']['folder']}; load it with prunopt.networks.load.")
