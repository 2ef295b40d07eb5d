"""The mathematical forms: frozen dataclasses of arrays, each with ``objective`` and ``violation``."""

from typing import Any

from prunopt.core import deprecation
from prunopt.forms.blackbox import BlackBox as BlackBox
from prunopt.forms.blackbox import Gene as Gene
from prunopt.forms.blackbox import LevelSearch as LevelSearch
from prunopt.forms.closure.budgeted_closure import BudgetedClosure as BudgetedClosure
from prunopt.forms.closure.closure import Closure as Closure
from prunopt.forms.closure.closure_on_disk import ClosureOnDisk as ClosureOnDisk
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack as CoupledKnapsack
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack as MultipleChoiceKnapsack
from prunopt.forms.knapsack.tile_columns import TileColumns as TileColumns
from prunopt.forms.layer.mask_blocks import MaskBlocks as MaskBlocks
from prunopt.forms.layer.quadratic_subset import QuadraticSubset as QuadraticSubset
from prunopt.forms.layer.transposable_mask import TransposableMask as TransposableMask
from prunopt.forms.linear_program import LinearProgram as LinearProgram
from prunopt.forms.mip_model import Model as Model
from prunopt.forms.relaxed.relaxed_mask import RelaxedMask as RelaxedMask
from prunopt.forms.relaxed.trained_mask import TrainedMask as TrainedMask
from prunopt.forms.storage import load_form as load_form
from prunopt.forms.storage import save_form as save_form
from prunopt.forms.subset.quadratic_knapsack import QuadraticKnapsack as QuadraticKnapsack
from prunopt.forms.subset.subset_choice import EnumerableChoice as EnumerableChoice
from prunopt.forms.subset.subset_choice import SubsetChoice as SubsetChoice
from prunopt.forms.subset.subset_sum import SubsetSum as SubsetSum

__all__ = [
    "BlackBox",
    "BudgetedClosure",
    "Closure",
    "ClosureOnDisk",
    "CoupledKnapsack",
    "EnumerableChoice",
    "Gene",
    "LevelSearch",
    "LinearProgram",
    "MaskBlocks",
    "Model",
    "MultipleChoiceKnapsack",
    "QuadraticKnapsack",
    "QuadraticSubset",
    "RelaxedMask",
    "SubsetChoice",
    "SubsetSum",
    "TileColumns",
    "TrainedMask",
    "TransposableMask",
    "load_form",
    "save_form",
]

RENAMED = {"CoupledChoice": "CoupledKnapsack", "QuadraticChoice": "QuadraticKnapsack"}


def __getattr__(name: str) -> Any:
    if name not in RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    deprecation.warn(f"prunopt.forms.{name}", f"prunopt.forms.{RENAMED[name]}")
    return globals()[RENAMED[name]]
