"""Transformers: calibration, heads, neurons and single weights removed block by block, learned masks, folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunopt.core.extras import lazy

if TYPE_CHECKING:
    from prunopt.networks.transformers.allocation import LoadedModel as LoadedModel
    from prunopt.networks.transformers.allocation import MaskedModel as MaskedModel
    from prunopt.networks.transformers.alternative_measuring import MeasureOptions as MeasureOptions
    from prunopt.networks.transformers.alternative_measuring import measure_alternatives as measure_alternatives
    from prunopt.networks.transformers.alternative_search import ChoiceOptions as ChoiceOptions
    from prunopt.networks.transformers.alternative_search import choose_by_model as choose_by_model
    from prunopt.networks.transformers.alternatives import Alternatives as Alternatives
    from prunopt.networks.transformers.block_removal import drop_blocks as drop_blocks
    from prunopt.networks.transformers.block_statistics import BlockStatistics as BlockStatistics
    from prunopt.networks.transformers.block_statistics import block_statistics as block_statistics
    from prunopt.networks.transformers.budgeted_pruning import prune_to_budgets as prune_to_budgets
    from prunopt.networks.transformers.calibration import Activations as Activations
    from prunopt.networks.transformers.calibration import Calibration as Calibration
    from prunopt.networks.transformers.calibration import as_calibration as as_calibration
    from prunopt.networks.transformers.checkpoints import load as load
    from prunopt.networks.transformers.depth import DepthOptions as DepthOptions
    from prunopt.networks.transformers.depth import block_influence as block_influence
    from prunopt.networks.transformers.depth import choose_depth as choose_depth
    from prunopt.networks.transformers.depth import prune_depth as prune_depth
    from prunopt.networks.transformers.depth import repair_gaps as repair_gaps
    from prunopt.networks.transformers.evaluators import SparsityMasks as SparsityMasks
    from prunopt.networks.transformers.evaluators import TextEvaluator as TextEvaluator
    from prunopt.networks.transformers.families import Attention as Attention
    from prunopt.networks.transformers.families import Block as Block
    from prunopt.networks.transformers.families import FeedForward as FeedForward
    from prunopt.networks.transformers.families import blocks as blocks
    from prunopt.networks.transformers.families import register_family as register_family
    from prunopt.networks.transformers.hessians import calibrate as calibrate
    from prunopt.networks.transformers.layer import LayerReport as LayerReport
    from prunopt.networks.transformers.learned_masks import LearnedMasks as LearnedMasks
    from prunopt.networks.transformers.learned_masks import MaskTaskOptions as MaskTaskOptions
    from prunopt.networks.transformers.learned_masks import learn_masks as learn_masks
    from prunopt.networks.transformers.learned_masks import load_masks as load_masks
    from prunopt.networks.transformers.learned_masks import mask_task as mask_task
    from prunopt.networks.transformers.learned_masks import masks_by as masks_by
    from prunopt.networks.transformers.learned_masks import refit_masks as refit_masks
    from prunopt.networks.transformers.learned_masks import save_masks as save_masks
    from prunopt.networks.transformers.output_repair import OutputRepair as OutputRepair
    from prunopt.networks.transformers.output_repair import OutputRepairReport as OutputRepairReport
    from prunopt.networks.transformers.output_repair import repair_outputs as repair_outputs
    from prunopt.networks.transformers.pruning import prune_transformer as prune_transformer
    from prunopt.networks.transformers.puzzletron import read_puzzletron as read_puzzletron
    from prunopt.networks.transformers.reading import read_model as read_model
    from prunopt.networks.transformers.recipes import PruneOptions as PruneOptions
    from prunopt.networks.transformers.recipes import Recipe as Recipe
    from prunopt.networks.transformers.repair import BlockRepair as BlockRepair
    from prunopt.networks.transformers.repair import RepairReport as RepairReport
    from prunopt.networks.transformers.result import PruneResult as PruneResult
    from prunopt.networks.transformers.result import save as save
    from prunopt.networks.transformers.text import TokenLosses as TokenLosses
    from prunopt.networks.transformers.text import read_text as read_text
    from prunopt.networks.transformers.text import source_windows as source_windows
    from prunopt.networks.transformers.text import token_losses as token_losses
    from prunopt.networks.transformers.text import token_windows as token_windows
    from prunopt.networks.transformers.verification import verify_folder as verify_folder

_PLACES = {
    "prunopt.networks.transformers.allocation": "LoadedModel MaskedModel",
    "prunopt.networks.transformers.alternative_measuring": "MeasureOptions measure_alternatives",
    "prunopt.networks.transformers.alternative_search": "ChoiceOptions choose_by_model",
    "prunopt.networks.transformers.alternatives": "Alternatives",
    "prunopt.networks.transformers.block_removal": "drop_blocks",
    "prunopt.networks.transformers.budgeted_pruning": "prune_to_budgets",
    "prunopt.networks.transformers.block_statistics": "BlockStatistics block_statistics",
    "prunopt.networks.transformers.calibration": "Activations Calibration as_calibration",
    "prunopt.networks.transformers.checkpoints": "load",
    "prunopt.networks.transformers.depth": "DepthOptions block_influence choose_depth prune_depth repair_gaps",
    "prunopt.networks.transformers.evaluators": "SparsityMasks TextEvaluator",
    "prunopt.networks.transformers.families": "Attention Block FeedForward blocks register_family",
    "prunopt.networks.transformers.hessians": "calibrate",
    "prunopt.networks.transformers.layer": "LayerReport",
    "prunopt.networks.transformers.learned_masks": (
        "LearnedMasks MaskTaskOptions learn_masks load_masks mask_task masks_by refit_masks save_masks"
    ),
    "prunopt.networks.transformers.pruning": "prune_transformer",
    "prunopt.networks.transformers.puzzletron": "read_puzzletron",
    "prunopt.networks.transformers.reading": "read_model",
    "prunopt.networks.transformers.recipes": "PruneOptions Recipe",
    "prunopt.networks.transformers.output_repair": "OutputRepair OutputRepairReport repair_outputs",
    "prunopt.networks.transformers.repair": "BlockRepair RepairReport",
    "prunopt.networks.transformers.result": "PruneResult save",
    "prunopt.networks.transformers.text": "TokenLosses read_text source_windows token_losses token_windows",
    "prunopt.networks.transformers.verification": "verify_folder",
}
__all__ = sorted(" ".join(_PLACES.values()).split())
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch")
