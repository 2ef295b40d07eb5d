"""The mathematical forms: frozen dataclasses of arrays, each with ``objective`` and ``violation``."""

from prunopt.forms.budgeted_closure import BudgetedClosure as BudgetedClosure
from prunopt.forms.closure import Closure as Closure
from prunopt.forms.linear import LinearProgram as LinearProgram
from prunopt.forms.storage import load_form as load_form
from prunopt.forms.storage import save_form as save_form
from prunopt.forms.subset_sum import SubsetSum as SubsetSum

__all__ = ["BudgetedClosure", "Closure", "LinearProgram", "SubsetSum", "load_form", "save_form"]
