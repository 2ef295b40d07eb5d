"""A pruned transformer: the model, what was done to it, and how it is written to a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from prunopt.core.files import write_json
from prunopt.core.validate import Shown, refuse
from prunopt.networks.io.folders import FORMAT, MANIFEST, versions, whole_folder
from prunopt.networks.io.shards import digests
from prunopt.networks.transformers.checkpoints import linear_shapes, write_configs, write_model
from prunopt.networks.transformers.layer import LayerReport
from prunopt.networks.transformers.model_card import copy_beside, write_card
from prunopt.networks.transformers.modelling_file import write_modelling_file
from prunopt.networks.transformers.output_repair import OutputRepairReport
from prunopt.networks.transformers.repair import RepairReport
from prunopt.networks.transformers.streaming import StreamedModel


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned transformer.

    Parameters
    ----------
    model
        The smaller model, in evaluation mode.
    report
        One row for each layer: objective, bound, gap, kept, damping, seconds.
    removed, target, total
        Parameters (or single weights) removed, asked for, and those of all blocks' linear layers.
    stock
        Whether stock transformers code can load what `save` writes; else it does with ``trust_remote_code=True``.
    options
        What was asked for, as plain values.
    notes
        What a person should know: dampings that went up, shares of rare tokens, budgets met by other means.
    digests
        SHA-256 of the calibration and of the model before.
    evaluation
        Perplexity (or the outputs' error), parameters, bytes and tokens per second, before and after; see
        `prunopt.networks.transformers.before_after.compared`.
    folder
        Where a streamed model was written; None for others.
    repairs
        One row for each block that was repaired; the report's errors are those before.
    output_repair
        What the repair of the whole model came to, if there was one; the report's errors are those before.
    """

    model: nn.Module
    report: tuple[LayerReport, ...]
    removed: int
    target: int
    total: int
    stock: bool
    options: dict[str, Any]
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    repairs: tuple[RepairReport, ...] = ()
    output_repair: OutputRepairReport | None = None

    @property
    def sparsity(self) -> float:
        """Fraction removed of the parameters of the blocks' linear layers."""
        return self.removed / self.total

    def save(
        self, folder: str | os.PathLike[str], tokenizer: Any = None, *, like: str | os.PathLike[str] | None = None
    ) -> None:
        """Write the model, its configuration and ``prunopt.json`` to a folder; `prunopt.networks.load` reads it.

        ``like`` is the folder of the model before: the number of files and what lies beside the weights (tokenizer,
        chat template) are kept, and the model card names its license.
        """
        save(self, folder, tokenizer=tokenizer, like=like)

    def push_to_hub(
        self, name: str, tokenizer: Any = None, *, like: str | os.PathLike[str] | None = None, private: bool = False,
        message: str = "A model pruned by prunopt",
    ) -> str:  # fmt: skip
        """Upload what `save` writes to the Hugging Face Hub, as the user that its own tools are logged in as.

        Parameters
        ----------
        name
            ``owner/model``; made if there is none.
        tokenizer, like
            As of `save`.
        private
            Of a repository that is made.
        message
            Of the commit.

        Returns
        -------
        str
            Where it is.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory() as place:
            if self.folder is None:
                self.save(Path(place) / "model", tokenizer, like=like)
            api.create_repo(name, private=private, exist_ok=True)
            source = Path(place) / "model" if self.folder is None else self.folder
            found = api.upload_folder(repo_id=name, folder_path=source, commit_message=message)
        return str(getattr(found, "commit_url", found))


def save(
    result: PruneResult, folder: str | os.PathLike[str], *, tokenizer: Any = None,
    like: str | os.PathLike[str] | None = None,
) -> None:  # fmt: skip
    """Write a pruned transformer: all files, or none.

    ``config.json``, ``generation_config.json`` and ``model.safetensors`` are those of transformers, weights in the
    number format of the checkpoint that they come from; where all blocks have one shape, stock ``from_pretrained``
    reads the folder, else it does so with ``trust_remote_code=True``, by a modeling file that needs no prunopt.
    ``prunopt.json`` holds shapes, budget, the report of every layer, figures before and after, notes, versions, and the
    digests of weights, calibration and the model before; ``README.md`` is a model card.

    Parameters
    ----------
    folder
        New, or one that prunopt wrote.
    tokenizer
        Written beside the model.
    like
        The folder of the model before: weights are shared out over files of the same names, and its tokenizer, chat
        template and the like are copied where no tokenizer is given.

    Raises
    ------
    ValueError
        If the folder exists and is not one that prunopt wrote, or the model was streamed and is in its folder already.
    """
    if result.folder is not None:
        refuse("folder", "be left out", Shown(os.fspath(folder)), f"the streamed model is in {result.folder} already")
    with whole_folder(folder) as place:
        kinds = {p.dtype for p in result.model.parameters()}
        write_model(result.model, place, like)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
        elif like is not None:
            copy_beside(Path(like), place)
        _describe(result, place, str(kinds.pop()).removeprefix("torch.") if len(kinds) == 1 else None, like)


@contextmanager
def written(source: StreamedModel) -> Iterator[Callable[[PruneResult], PruneResult]]:
    """Let blocks that leave memory be written; what is yielded completes their folder, or all of it is removed."""
    with whole_folder(source.out) as place:
        source.write_to(place)

        def finish(result: PruneResult) -> PruneResult:
            write_configs(result.model, place, source.finish())
            copy_beside(source.folder, place)
            # `load` gives parameters the format that is said here: that of the files
            _describe(result, place, None, source.folder)
            return replace(result, folder=source.out)

        try:
            yield finish
        finally:
            source.close()


def _describe(result: PruneResult, place: Path, dtype: str | None, like: str | os.PathLike[str] | None) -> None:
    """Write the manifest, the model card and, where stock code does not do, a modeling file."""
    remote = not result.stock and write_modelling_file(result.model, place)
    manifest = {
        "format": FORMAT, "kind": "transformer", "stock": result.stock, "remote_code": remote,
        "shapes": linear_shapes(result.model),
        "removed": result.removed, "target": result.target, "total": result.total,
        "sparsity": result.sparsity, "options": result.options, "notes": list(result.notes),
        "evaluation": result.evaluation, "dtype": dtype,
        "report": [row.to_dict() for row in result.report], "weights": digests(place),
        "before": {k: v for k, v in result.digests.items() if k != "options"}, "versions": versions(),
    }  # fmt: skip
    if result.repairs:
        manifest["repair"] = [row.to_dict() for row in result.repairs]
    if result.output_repair is not None:
        manifest["output_repair"] = result.output_repair.to_dict()
    write_json(place / MANIFEST, manifest)
    write_card(place, manifest, like)
