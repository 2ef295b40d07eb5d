"""``prunopt lottery``: a trained network found inside a random one, by pruning alone."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.output import guarded, note, number, print_json, progress
from prunopt.core import validate

if TYPE_CHECKING:
    from prunopt.networks.lottery.digits import Digits

N_INPUTS = 10_000  # random inputs that the error is measured on


@guarded
def lottery(
    target: Annotated[
        Path | None,
        typer.Option(help="A .safetensors file of linear and convolution layers, a ReLU between any two."),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Greatest error of a weight.")] = 0.01,
    construction: Annotated[str, typer.Option(help="subset-sum or golden-ratio.")] = "subset-sum",
    solver: Annotated[str | None, typer.Option(help="A solver of subset sums. [default: the best]")] = None,
    delta: Annotated[float, typer.Option(help="Probability of a failure that sets the width.")] = 0.01,
    width: Annotated[int | None, typer.Option(help="Random neurons of each input. [default: by the theory]")] = None,
    rescale: Annotated[
        bool,
        typer.Option(help="Draw the weights of each layer from a range that fits it."),
    ] = True,
    nonnegative: Annotated[
        bool | None, typer.Option(help="Inputs are never negative. [default: yes for the digits, no for a file]")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Shape of one input, as 1,28,28; needed where there are convolutions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for ticket.safetensors and ticket.json.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prune a random network until it computes what a trained one does; no weight of it is trained.

    Without options: a small network, trained here on scikit-learn's handwritten digits. Prints the accuracy of both,
    the parameters sampled and kept, the proven bound on the distance of their outputs for inputs up to norm 1, and the
    greatest distance measured.
    """
    if out is not None:
        validate.require(out.is_dir() or not out.exists(), "--out", "name a folder", str(out))
        out.mkdir(parents=True, exist_ok=True)
    shape = _shape(input_shape)
    import torch

    from prunopt.networks.lottery import digits as small
    from prunopt.networks.lottery import tickets
    from prunopt.networks.threads import torch_threads

    estimates.lottery(target, epsilon, width)
    digits: Digits | None = None
    with progress("lottery", total=3) as tell:
        if target is None:
            tell("training the target")
            digits = small.load_digits(seed)
            network = small.train_digits(digits, seed=seed)
        else:
            network = tickets.read_network(target)
        sign = (target is None) if nonnegative is None else nonnegative
        tell("solving the subset sums")
        start = time.perf_counter()
        ticket, solution, task = tickets.find_ticket(
            network,
            epsilon,
            solver=solver,
            construction=construction,
            seed=seed,
            delta=delta,
            width=width,
            rescale=rescale,
            nonnegative_input=sign,
            input_shape=shape,
        )
        spent = time.perf_counter() - start
        tell("measuring")
        inputs = tickets.inputs_in_ball(task.target.input_shape, N_INPUTS, nonnegative=sign, seed=seed)
        if digits is not None:
            inputs = torch.cat([inputs, digits.train.double(), digits.test.double()])
        with torch_threads(1):  # for the same digits on any number of threads
            measured = tickets.measured_error(network, ticket.module, inputs, climbs=50, sign=sign)
        report: dict[str, Any] = {
            "target": "digits" if target is None else str(target),
            "target_accuracy": None if digits is None else digits.accuracy(network),
            "sub_network_accuracy": None if digits is None else digits.accuracy(ticket.module),
            "epsilon": epsilon,
            "construction": construction,
            "solver": solution.solver,
            "status": solution.status.name,
            "seconds": spent,
            "parameters": ticket.counts,
            "kept_per_target_weight": ticket.counts["kept_second"] / ticket.counts["target_weights"],
            "proven_least": solution.bound,
            "bound": ticket.certificate.error_bound,
            "a_priori_bound": ticket.certificate.a_priori_bound,
            "measured_error": measured,
            "inputs_measured": len(inputs),
            "certificate": asdict(ticket.certificate),
            "random_network": task.report(),
        }
        if out is not None:
            keys = ("target", "target_accuracy", "sub_network_accuracy", "status", "measured_error", "inputs_measured")
            report["files"] = tickets.save_ticket(out, ticket, task, **{key: report[key] for key in keys})
    if as_json:
        print_json(report)
        return
    stretched = [row for row in report["random_network"] if row["draws_up_to"] != 1.0]
    if stretched and rescale and construction == "subset-sum":
        drawn = ", ".join(f"{row['draws_up_to']:.3g} in {row['layer']}" for row in stretched)
        note(f"random weights are drawn up to {drawn} in place of 1, to fit the target (--no-rescale refuses that)")
    _show(report, out)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise validate.invalid("--input-shape", "be whole numbers with commas", text, "as in 1,28,28") from None


def _show(report: dict[str, Any], out: Path | None) -> None:
    counts, certificate = report["parameters"], report["certificate"]
    widths = ", ".join(str(row["neurons_of_each_input"]) for row in report["random_network"])
    lines = [
        ("target", f"{report['target']}, {counts['target_weights']} weights"),
        ("random network", f"{counts['sampled']} parameters sampled; {widths} neurons for each input, layer by layer"),
        ("kept", f"{counts['kept']} parameters ({counts['kept_first']} first, {counts['kept_second']} second weights)"),
        (
            "second weights",
            f"{report['kept_per_target_weight']:.3f} per target weight, at least {report['proven_least']:.0f} proven "
            f"({report['status'].lower()}, {report['solver']}, {report['seconds']:.2f} s)",
        ),
        ("weight error", f"{number(certificate['largest_weight_error'])} at most, tolerance {report['epsilon']:g}"),
        (
            "output error",
            f"{number(report['measured_error'])} measured on {report['inputs_measured']} inputs up to norm 1",
        ),
        ("", f"{number(report['bound'])} proven, {number(report['a_priori_bound'])} before solving"),
    ]
    if report["target_accuracy"] is not None:
        lines.insert(
            1, ("accuracy", f"{report['target_accuracy']:.4f} target, {report['sub_network_accuracy']:.4f} sub-network")
        )
    for name, text in lines:
        print(f"{name:<15} {text}")
    if out is not None:
        print(f"Written: {', '.join(str(out / name) for name in report['files'])}")
