"""``prunopt cnn``: a convolutional network under a budget of multiply-adds, parameters or measured milliseconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.output import guarded, note, number, print_json, progress, table

if TYPE_CHECKING:
    from torch import nn

CHANNELS = ("importance", "fisher", "taylor", "magnitude")
METHODS = (*CHANNELS, "deprune", "windows", "s2h")


@guarded
def cnn(
    model: Annotated[str, typer.Argument(help="mobilenetv2, efficientnet-lite0, or FILE.py:factory.")],
    budget: Annotated[
        str, typer.Option(help="latency_ms=0.6x, latency_ms=9, macs=0.5 or parameters=0.5.")
    ] = "macs=0.5",
    method: Annotated[
        str,
        typer.Option(
            help="importance, fisher, taylor, magnitude; deprune or windows for depthwise layers; s2h trains."
        ),
    ] = "importance",
    images: Annotated[Path | None, typer.Option(help="A folder or .zip of pictures without labels.")] = None,
    limit: Annotated[int, typer.Option(help="Pictures used.")] = 128,
    size: Annotated[int, typer.Option(help="Height and width of the input.")] = 224,
    loss: Annotated[str, typer.Option(help="measured on the network, or layers (quicker, worse).")] = "measured",
    taps: Annotated[bool, typer.Option("--taps", help="Offer windows of taps beside widths, in one choice.")] = False,
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
    from prunopt.networks.cnn.pruning import parse_budget

    if method not in METHODS:
        raise ValueError(f"--method {method}: give one of {', '.join(METHODS)}")
    if taps and method not in CHANNELS:
        raise ValueError(f"--taps: --method {method} chooses no widths by importance; leave it out")
    if limit < 2 or size < 8 or threads < 1:
        raise ValueError(f"--limit {limit}, --size {size}, --threads {threads}: at least 2, 8 and 1 are needed")
    resource, share, relative = parse_budget(budget)
    if method in ("deprune", "windows") and not (resource == "latency_ms" and relative and share <= 1):
        raise ValueError(f"--budget {budget}: --method {method} needs a share of milliseconds, as in latency_ms=0.5x")
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
            from prunopt.networks.cnn.models import read_pictures

            pictures = read_pictures(images, name or "mobilenetv2", limit=limit, size=size)[0]
        example = torch.zeros(1, 3, size, size) if pictures is None else pictures[:1]
        times = None
        if resource == "latency_ms" and method != "deprune":
            from prunopt.networks.cnn.latency import LatencyTable

            times = LatencyTable(runtime, latency_table, threads=threads)
        if method == "s2h":
            from prunopt.commands.cnn_training import learn_widths

            smaller, report, example = learn_widths(
                dense, name, tell, train=train, test=test, budget=budget, epochs=epochs, batch=batch,
                rate=learning_rate, size=size, seed=seed, checkpoints=checkpoints, times=times,
            )  # fmt: skip
        else:
            job = {"deprune": _deprune, "windows": _windows}.get(method, _channels)
            smaller, report = job(
                dense, name, pictures, example, times, tell,
                budget=budget, share=share, method=method, loss=loss, taps=taps, seed=seed,
            )  # fmt: skip
        if out is not None:
            from prunopt.networks.cnn.checkpoints import save_cnn

            save_cnn(smaller, out, dense=name, report=report)
        if onnx is not None:
            from prunopt.networks.cnn.surgery import onnx_file

            onnx_file(smaller, example, onnx)
    report["files"] = [str(p) for p in (out, onnx) if p is not None]
    print_json(report) if as_json else _show(report)


def read(model: str) -> tuple[nn.Module, str | None]:
    """Return a network and, where it is a known one, its name."""
    from prunopt.networks.cnn.models import NAMES, read_cnn

    if model in NAMES:
        return read_cnn(model), model
    file, _, factory = model.rpartition(":")
    if not file or not file.endswith(".py"):
        raise ValueError(f"MODEL {model}: give {', '.join(NAMES)} or FILE.py:factory")
    if not Path(file).is_file():
        raise ValueError(f"MODEL {model}: there is no file {file}")
    spec = importlib.util.spec_from_file_location("prunopt_user_model", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"MODEL {model}: {file} cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, factory, None)):
        raise ValueError(f"MODEL {model}: {file} has no function {factory}")
    built = getattr(module, factory)()
    from torch import nn

    if not isinstance(built, nn.Module):
        raise TypeError(f"MODEL {model}: {factory}() returns {type(built).__name__}, a torch.nn.Module is needed")
    return built.eval(), None


def _channels(dense: Any, name: Any, pictures: Any, example: Any, times: Any, tell: Any, **o: Any) -> Any:
    from prunopt.networks.cnn.pruning import prune_cnn

    options: dict[str, Any] = {"importance": "obs" if o["method"] == "importance" else o["method"], "loss": o["loss"],
                               "windows": o["taps"]}  # fmt: skip
    if pictures is None:
        if o["method"] != "magnitude":
            note("no --images: the smallest weights go (--method magnitude), nothing is re-solved")
        options = {"importance": "magnitude", "refit": False, "batch_norm": "keep", "windows": o["taps"]}
    result = prune_cnn(
        dense, pictures, budget=o["budget"], example=example, table=times, name=name, seed=o["seed"], progress=tell,
        **options,
    )  # fmt: skip
    return result.model, {"model": name, "method": o["method"], **result.to_dict()}


def _deprune(dense: Any, name: Any, pictures: Any, example: Any, times: Any, tell: Any, **o: Any) -> Any:
    from prunopt.networks.cnn.pruning import deprune

    masked, solution = deprune(dense, example, budget=o["share"], seed=o["seed"])
    kept = [int(m.sum()) for m in solution.value]
    report = _solved(name, o["method"], solution)
    report["notes"] = [f"{sum(kept)} of {sum(m.size for m in solution.value)} depthwise weights stay",
                       "the weights are zeros: only kernels for the diagonal form run faster by them"]  # fmt: skip
    if 0 in kept:
        report["notes"].append(
            f"{kept.count(0)} of {len(kept)} depthwise layers lose every weight and pass on a constant: take more than "
            f"{o['budget']}"
        )
    return masked, report


def _windows(dense: Any, name: Any, pictures: Any, example: Any, times: Any, tell: Any, **o: Any) -> Any:
    from prunopt.networks.cnn.windowed_conv import choose_windows, with_windows

    choice = choose_windows(dense, example, o["share"], times, progress=tell)
    chosen = dict(zip(choice.names, choice.windows, strict=True))
    report = _solved(name, o["method"], choice.solution)
    report["used"], report["total"] = choice.milliseconds, choice.dense_milliseconds
    report["windows"] = {n: list(w.shape) for n, w in chosen.items()}
    return with_windows(dense, chosen), report


def _solved(name: Any, method: str, solution: Any) -> dict[str, Any]:
    return {"model": name, "method": method, "status": solution.status.name, "objective": solution.objective,
            "bound": solution.bound, "gap": solution.gap, "solver": solution.solver, "notes": []}  # fmt: skip


def _show(report: dict[str, Any]) -> None:
    if "groups" in report:
        last = "loss" if "loss" in report["groups"][0] else "expected"
        rows = [[r["group"], str(r["before"]), str(r["after"]), number(r[last], 3)] for r in report["groups"]]
        print(table(["channels of", "before", "after", last], rows, left=[0]))
    for layer, shape in report.get("windows", {}).items():
        print(f"{layer}: {shape[0]}x{shape[1]}")
    proof = f"gap {report['gap']:.2g}" if report.get("gap") is not None else "no bound"
    print(f"{report['status'].lower()} ({report['solver']}): loss {number(report['objective'], 4)}, {proof}")
    if "total" in report:
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
