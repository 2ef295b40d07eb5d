"""``prunopt cnn``: a convolutional network under a budget of multiply-adds, parameters or measured milliseconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.cnn_training import Job
from prunopt.commands.output import guarded, note, number, print_json, progress, table
from prunopt.core import validate
from prunopt.core.budget import Budget, BudgetUse

if TYPE_CHECKING:
    import torch
    from torch import nn

DEPTHWISE = ("deprune", "windows")
DEFAULT = "importance"  # the default importance of `prune_cnn`


@guarded
def cnn(
    model: Annotated[str, typer.Argument(help="mobilenetv2, efficientnet-lite0, or FILE.py:factory.")],
    budget: Annotated[
        list[str],
        typer.Option(
            help="latency_ms=0.6x, latency_ms=9, macs=0.5, parameters=2M, memory=4MB; several are met at once."
        ),
    ] = ["macs=0.5"],  # noqa: B006
    method: Annotated[
        str,
        typer.Option(
            help="An importance (obs, the default; fisher, taylor, magnitude); deprune or windows for depthwise "
            "layers; s2h trains."
        ),
    ] = DEFAULT,
    images: Annotated[Path | None, typer.Option(help="A folder or .zip of pictures without labels.")] = None,
    limit: Annotated[int, typer.Option(help="Pictures used, at even distances in the order of their names.")] = 128,
    size: Annotated[int, typer.Option(help="Height and width of the input.")] = 224,
    input_shape: Annotated[
        str | None, typer.Option(help="Channels, height and width of the input, such as 1,28,28; instead of --size.")
    ] = None,
    loss: Annotated[str, typer.Option(help="measured on the network, or layers (quicker, worse).")] = "measured",
    taps: Annotated[bool, typer.Option("--taps", help="Offer windows of taps beside widths, in one choice.")] = False,
    branches: Annotated[
        bool, typer.Option("--branches", help="Offer to remove branches of residual sums whole, in the same choice.")
    ] = False,
    distill_minutes: Annotated[
        float | None, typer.Option(help="Learn from the dense network for so long in the end, on --images; no labels.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="torch, onnxruntime or cuda, for milliseconds.")] = "torch",
    latency_table: Annotated[Path | None, typer.Option(help="JSON file that keeps measured milliseconds.")] = None,
    train: Annotated[
        Path | None, typer.Option(help="For s2h: pictures, one folder a class (or a .zip of such), or .npz with x, y.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="For s2h: the same, to report the accuracy on.")] = None,
    epochs: Annotated[int, typer.Option(help="For s2h.")] = 10,
    batch: Annotated[int, typer.Option(help="For s2h.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="For s2h: of the weights, at the start.")] = 0.05,
    checkpoints: Annotated[Path | None, typer.Option(help="For s2h: folder; the same call goes on from there.")] = None,
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
    onnx: Annotated[Path | None, typer.Option(help="Write the smaller network as ONNX, too.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the weights and prunopt.json.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove channels (or taps of depthwise layers) from a convolutional network, within a budget, with a proof.

    A factory is a function without arguments in a Python file of yours; the file is run. Without pictures the smallest
    weights go and nothing is re-solved. The methods deprune and windows take a budget in milliseconds of the depthwise
    layers alone, as a share: latency_ms=0.5x. The method s2h needs --train; it trains weights and widths in one go.
    """
    from prunopt.networks.cnn.importances import IMPORTANCES
    from prunopt.networks.cnn.pruning import RESOURCES

    channels = (DEFAULT, *IMPORTANCES)
    validate.one_of("--method", method, (*channels, *DEPTHWISE, "s2h"))
    validate.require(not taps or method in channels, "--taps", "go with an importance as --method", method)
    validate.require(not branches or method in channels, "--branches", "go with an importance as --method", method)
    for option, value, least in (("--limit", limit, 2), ("--size", size, 8), ("--threads", threads, 1)):
        validate.whole_number(option, value, low=least)
    shape = _shape(input_shape, size)
    if distill_minutes is not None:
        validate.number("--distill-minutes", distill_minutes, low=0, open_ends="(")
        validate.require(images is not None, "--distill-minutes", "go with --images to learn from", distill_minutes)
        validate.require(method in channels, "--distill-minutes", "go with an importance as --method", method)
        validate.require(limit >= 10, "--limit", "be at least 10, for --distill-minutes", limit)
    budgets, written = Budget.several(budget, RESOURCES), " ".join(budget)
    wanted = budgets[0]
    one = len(budgets) == 1 or method in channels
    validate.require(one, "--budget", f"be one for the method {method}", written, "several go with an importance")
    share = wanted.resource == "latency_ms" and wanted.share is not None and wanted.share <= 1
    what = "be a share of milliseconds for deprune and windows"
    validate.require(share or method not in DEPTHWISE, "--budget", what, written, "write latency_ms=0.5x")
    if out is not None:
        from prunopt.networks.io.folders import check_target

        check_target(out)
    import torch

    torch.set_num_threads(threads)
    with progress("cnn") as tell:
        tell("reading")
        dense, name = read(model)
        count = limit if images is not None else 1
        weights = sum(p.numel() for p in dense.parameters())
        estimates.cnn(weights, pictures=count, size=size, batch=batch if method == "s2h" else 1)
        pictures = None
        if images is not None:
            pictures = _pictures(images, name, limit, shape)
        example = torch.zeros(1, *shape) if pictures is None else pictures
        first = next(dense.parameters(), example)
        if first.is_floating_point() and first.dtype != example.dtype:  # a network in half precision
            example = example.to(first.dtype)
            pictures = None if pictures is None else example
        if method != "s2h":  # which has pictures of its own
            _check_outputs(dense, example, shape, pictures is not None)
        times = None
        if any(b.resource == "latency_ms" for b in budgets) and method != "deprune":
            from prunopt.networks.cnn.latency import LatencyTable

            times = LatencyTable(runtime, latency_table, threads=threads)
        job = Job(
            dense,
            name,
            pictures,
            example,
            times,
            tell,
            tuple(budgets),
            method,
            loss,
            taps,
            branches,
            seed,
            distill_minutes,
        )
        if method == "s2h":
            from prunopt.commands.cnn_training import Schedule, learn_widths

            schedule = Schedule(train, test, epochs, batch, learning_rate, size, checkpoints)
            smaller, report, example = learn_widths(job, schedule)
        else:
            smaller, report = {"deprune": _deprune, "windows": _windows}.get(method, _channels)(job)
        if out is not None:
            from prunopt.networks.cnn.checkpoints import save_cnn

            save_cnn(smaller, out, dense=name, report=report)
        if onnx is not None:
            from prunopt.networks.cnn.surgery import onnx_file

            onnx_file(smaller, example[:1], onnx)
    report["files"] = [str(p) for p in (out, onnx) if p is not None]
    print_json(report) if as_json else _show(report)


def _shape(text: str | None, size: int) -> tuple[int, int, int]:
    if text is None:
        return 3, size, size
    parts = text.replace("x", ",").split(",")
    good = len(parts) == 3 and all(p.strip().isdigit() and int(p) > 0 for p in parts)
    validate.require(good, "--input-shape", "be channels, height and width, such as 3,224,224", text)
    channels, height, width = (int(p) for p in parts)
    return channels, height, width


def _check_outputs(dense: nn.Module, example: torch.Tensor, shape: tuple[int, int, int], sampled: bool) -> None:
    """Refuse a network that cannot be run or measured; warn where its pictures look like a few classes."""
    from prunopt.networks.cnn.models import few_classes
    from prunopt.networks.cnn.repair import outputs_of

    try:
        outputs = outputs_of(dense, example[:: max(1, len(example) // 64)])
    except (RuntimeError, ValueError, TypeError) as error:
        size, reason = validate.Shown(",".join(map(str, shape))), " ".join(str(error).split())[:200]
        raise validate.invalid("--input-shape", "be what the network can be run on", size, reason) from None
    mend = "its losses cannot be measured: return scores in place of class numbers"
    validate.require(outputs, "MODEL", "put out floating-point numbers", validate.Shown("others"), mend)
    warning = few_classes(outputs[0]) if sampled else None
    if warning is not None:
        note(f"warning: {warning}")


def _pictures(place: Path, name: str | None, limit: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Return a sample of pictures; says how many of how many."""
    from prunopt.networks.cnn.models import picture_files, read_pictures

    validate.require(shape[0] in (1, 3), "--input-shape", "have 1 or 3 channels, with --images", shape[0])
    count = len(picture_files(place))
    found = read_pictures(place, name or "mobilenetv2", limit=limit, size=shape[1:], channels=shape[0])[0]
    note(f"{len(found)} of {count} pictures of {place}, at even distances in the order of their names")
    return found


def read(model: str) -> tuple[nn.Module, str | None]:
    """Return a network and, where it is a known one, its name."""
    from prunopt.networks.cnn.models import NAMES, read_cnn

    if model in NAMES:
        return read_cnn(model), model
    file, _, factory = model.rpartition(":")
    validate.require(file.endswith(".py"), "MODEL", f"be {', '.join(NAMES)} or FILE.py:factory", model)
    validate.require(Path(file).is_file(), "MODEL", "name a file that is there", model)
    spec = importlib.util.spec_from_file_location("prunopt_user_model", file)
    if spec is None or spec.loader is None:
        raise validate.invalid("MODEL", "name a file that Python can load", model)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    factory_there = callable(getattr(module, factory, None))
    validate.require(factory_there, "MODEL", "name a function of the file", model)
    built = getattr(module, factory)()
    from torch import nn

    if not isinstance(built, nn.Module):
        raise TypeError(f"MODEL {model}: {factory}() must return a torch.nn.Module, got {type(built).__name__}")
    return built.eval(), None


def _channels(job: Job) -> tuple[nn.Module, dict[str, Any]]:
    from prunopt.networks.cnn.output_matching import OutputMatching
    from prunopt.networks.cnn.profile import Widths
    from prunopt.networks.cnn.pruning import prune_cnn
    from prunopt.networks.cnn.repair import Repair

    importance = "obs" if job.method == DEFAULT else job.method
    repair: Repair | None = Repair()
    widths = Widths(loss=job.loss, windows=job.taps, branches=job.branches)
    if job.pictures is None:
        if job.method != "magnitude":
            note("no --images: the smallest weights go (--method magnitude), nothing is re-solved")
        importance, repair, widths = "magnitude", None, Widths(windows=job.taps, branches=job.branches)
    result = prune_cnn(
        job.dense,
        job.example,
        budget=job.budgets,
        importance=importance,
        widths=widths,
        repair=repair,
        training=None if job.distill_minutes is None else OutputMatching(job.distill_minutes),
        table=job.times,
        seed=job.seed,
        progress=job.tell,
    )
    return result.model, {"model": job.name, "method": job.method, **result.to_dict()}


def _deprune(job: Job) -> tuple[nn.Module, dict[str, Any]]:
    from prunopt.networks.cnn.deprune import deprune

    masked, solution = deprune(job.dense, job.example, budget=job.budget.allowed(1.0), seed=job.seed)
    kept = [int(m.sum()) for m in solution.value]
    report = job.solved(solution)
    report["notes"] = [
        f"{sum(kept)} of {sum(m.size for m in solution.value)} depthwise weights stay",
        "the weights are zeros: only kernels for the diagonal form run faster by them",
    ]
    if 0 in kept:
        report["notes"].append(
            f"{kept.count(0)} of {len(kept)} depthwise layers lose every weight and pass on a constant: take more than "
            f"{job.budget}"
        )
    return masked, report


def _windows(job: Job) -> tuple[nn.Module, dict[str, Any]]:
    from prunopt.networks.cnn.windowed_conv import choose_windows, with_windows

    choice = choose_windows(job.dense, job.example[:1], job.budget.allowed(1.0), job.times, progress=job.tell)
    chosen = dict(zip(choice.names, choice.windows, strict=True))
    report = job.solved(choice.solution) | {"used": choice.milliseconds, "total": choice.dense_milliseconds}
    report["windows"] = {n: list(w.shape) for n, w in chosen.items()}
    return with_windows(job.dense, chosen), report


def _show(report: dict[str, Any]) -> None:
    if "groups" in report:
        last = "loss" if "loss" in report["groups"][0] else "expected"
        rows = [[r["group"], str(r["before"]), str(r["after"]), number(r[last], 3)] for r in report["groups"]]
        print(table(["channels of", "before", "after", last], rows, left=[0]))
    for layer, shape in report.get("windows", {}).items():
        print(f"{layer}: {shape[0]}x{shape[1]}")
    proof = f"gap {report['gap']:.2g}" if report.get("gap") is not None else "no bound"
    print(f"{report['status'].lower()} ({report['solver']}): loss {number(report['objective'], 4)}, {proof}")
    for use in (report.get("budgets") or ()) if len(report.get("budgets") or ()) > 1 else ():
        print(BudgetUse(**use).describe("of the loss"))
    if "total" in report and len(report.get("budgets") or ()) < 2:
        share = report["used"] / report["total"]
        print(
            f"{report.get('resource', 'milliseconds')}: {number(report['used'])} of {number(report['total'])}"
            f" ({share:.1%})"
        )
    if report.get("measured"):
        print(", ".join(f"{k} {v:.3f}" for k, v in report["measured"].items()))
    for line in report.get("notes", []):
        print(line)
    if report["files"]:
        print(f"Written: {', '.join(report['files'])}")
