"""The mathematical forms: frozen dataclasses of arrays, each with ``objective`` and ``violation``."""

from prunopt.forms.blackbox import BlackBox as BlackBox
from prunopt.forms.blackbox import LevelSearch as LevelSearch
from prunopt.forms.budgeted_closure import BudgetedClosure as BudgetedClosure
from prunopt.forms.choice import MultipleChoiceKnapsack as MultipleChoiceKnapsack
from prunopt.forms.closure import Closure as Closure
from prunopt.forms.closure_on_disk import ClosureOnDisk as ClosureOnDisk
from prunopt.forms.coupled_choice import CoupledChoice as CoupledChoice
from prunopt.forms.linear import LinearProgram as LinearProgram
from prunopt.forms.mask_blocks import MaskBlocks as MaskBlocks
from prunopt.forms.quadratic_choice import QuadraticChoice as QuadraticChoice
from prunopt.forms.quadratic_subset import QuadraticSubset as QuadraticSubset
from prunopt.forms.relaxed import RelaxedMask as RelaxedMask
from prunopt.forms.robust_subset import RobustQuadraticSubset as RobustQuadraticSubset
from prunopt.forms.storage import load_form as load_form
from prunopt.forms.storage import save_form as save_form
from prunopt.forms.subset_choice import EnumerableChoice as EnumerableChoice
from prunopt.forms.subset_choice import SubsetChoice as SubsetChoice
from prunopt.forms.subset_sum import SubsetSum as SubsetSum
from prunopt.forms.tile_columns import TileColumns as TileColumns
from prunopt.forms.tile_partition import TilePartition as TilePartition
from prunopt.forms.trained_mask import TrainedMask as TrainedMask

__all__ = [
    "BlackBox",
    "BudgetedClosure",
    "Closure",
    "ClosureOnDisk",
    "CoupledChoice",
    "EnumerableChoice",
    "LevelSearch",
    "LinearProgram",
    "MaskBlocks",
    "MultipleChoiceKnapsack",
    "QuadraticChoice",
    "QuadraticSubset",
    "RelaxedMask",
    "RobustQuadraticSubset",
    "SubsetChoice",
    "SubsetSum",
    "TileColumns",
    "TilePartition",
    "TrainedMask",
    "load_form",
    "save_form",
]
