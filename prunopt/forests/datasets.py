"""Two embedded data sets with real feature costs, and the readers of a user's own table and cost list."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Floats
from prunopt.core.deprecation import renamed_attributes, renamed_names
from prunopt.core.validate import one_of
from prunopt.forests.cost_files import parse_costs, read_costs
from prunopt.forests.csv_tables import Table, read_csv
from prunopt.problems.forest.cost_lists import CostList, CostSum

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DATASETS",
    "CostList",
    "CostSum",
    "CostedDataset",
    "Table",
    "load_heart",
    "load_hypothyroid",
    "read_costs",
    "read_csv",
]


@renamed_attributes(prices="costs")
@dataclass(frozen=True, eq=False)
class CostedDataset:
    """A data set whose features have real costs.

    Parameters
    ----------
    name : str
        Short name, as the command line takes it.
    X : (n, K) float64
        One row for each patient; NaN where a value is missing.
    y : (n,) str
        Labels.
    target : str
        What the labels say, in a word.
    feature_names : tuple of str
        Names of the K columns.
    feature_costs : dict of str to float
        Full cost of each feature: what it costs as the first of its group, or outside any group.
    feature_groups : dict of str to list of str
        Tests of which the first one acquired incurs the common part. (Not features that are acquired as one, which is
        what ``feature_groups=`` means elsewhere.)
    common_cost : dict of str to float
        Common part of each group; a second test of the group costs ``feature_costs[f] - common_cost[group]``.
    derived_from : dict of str to list of str
        Features computed from others, and from which.
    categories : dict of str to dict
        What the codes of categorical columns mean.
    currency, source, licence, description : str
        Unit of the costs; where data and costs come from; terms of use; what the rows are.
    """

    name: str
    X: Floats
    y: NDArray[np.str_]
    target: str
    feature_names: tuple[str, ...]
    feature_costs: dict[str, float]
    feature_groups: dict[str, list[str]]
    common_cost: dict[str, float]
    derived_from: dict[str, list[str]]
    categories: dict[str, dict[int, str]]
    currency: str
    source: str
    licence: str
    description: str

    def costs(self) -> CostList:
        """Return the costs in the order of the columns."""
        return parse_costs(json.loads(self.costs_json()), self.feature_names, self.name)

    def frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame of the features, with the labels as last column, named ``target``."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("frame() needs pandas: pip install pandas, or use .X and .y") from None
        table = pd.DataFrame(self.X, columns=list(self.feature_names))
        table[self.target] = self.y
        return table

    def costs_json(self) -> str:
        """Return the costs as the JSON text that `read_costs` reads."""
        data = {
            "currency": self.currency,
            "source": self.source,
            "costs": self.feature_costs,
            "groups": self.feature_groups,
            "common": self.common_cost,
            "derived_from": self.derived_from,
        }
        return json.dumps(data, indent=2, allow_nan=False) + "\n"


def load_heart(target: str = "disease") -> CostedDataset:
    """Return the Cleveland heart disease data, 297 patients x 13 findings, with the test costs of Turney (1995).

    Parameters
    ----------
    target
        ``"disease"``: labels "healthy" (160) and "disease" (137), the original 0 against 1 to 4. ``"severity"``: the
        original labels "0" (160), "1" (54), "2" (35), "3" (35), "4" (13).

    Notes
    -----
    Costs are CAD of the Ontario price schedule: asking costs 1, an exercise ECG 87.30, of which 86.30 is common to
    exang, oldpeak and slope. ``data/README.md`` beside this module has sources and terms.
    """
    one_of("target", target, ("disease", "severity"))
    names, X, num, about = _packaged("heart", "num", 297, {"0": 160, "1": 54, "2": 35, "3": 35, "4": 13})
    y = np.where(num == "0", "healthy", "disease") if target == "disease" else num
    return _dataset("heart", target, names, X, y, about)


def load_hypothyroid(*, measured_flags: bool = True) -> CostedDataset:
    """Return the hypothyroid data, 3163 records x 25 findings with 5329 missing values, 151 "hypothyroid".

    Parameters
    ----------
    measured_flags
        Whether to keep the six columns ``TSH_measured`` ... ``TBG_measured``; False leaves 19. A flag is 0 exactly
        where its test is missing: it says what a clinician chose to order, which nobody knows before ordering, and
        no record without TT4 is hypothyroid. Kept, a flag costs 1, as any look into the chart. Leave them out when
        savings are to hold for new patients.

    Notes
    -----
    Hormone costs are CAD of Turney (1995), whose table has neither FTI, TBG nor the flags. FTI is computed from TT4
    and T4U and has the sum of their costs. No source lists TBG: it has the cost of the costliest single hormone
    test, so that no forest looks cheaper through a guess. See ``data/README.md``.
    """
    names, X, y, about = _packaged("hypothyroid", "class", 3163, {"negative": 3012, "hypothyroid": 151})
    if not measured_flags:
        kept = [k for k, name in enumerate(names) if not name.endswith("_measured")]
        names, X = tuple(names[k] for k in kept), np.ascontiguousarray(X[:, kept])
    return _dataset("hypothyroid", "diagnosis", names, X, y, about)


DATASETS: dict[str, Callable[[], CostedDataset]] = {"heart": load_heart, "hypothyroid": load_hypothyroid}


def _packaged(
    name: str, target: str, n_rows: int, counts: dict[str, int]
) -> tuple[tuple[str, ...], Floats, NDArray[np.str_], dict[str, Any]]:
    """Read ``data/NAME.csv`` and ``data/NAME.json``; a file that is not as it was packed is refused."""
    folder = resources.files("prunopt.forests") / "data"
    about: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    header, *rows = csv.reader((folder / f"{name}.csv").read_text("utf-8").splitlines())
    names = tuple(about["costs"])
    labels = np.array([row[-1] for row in rows])
    found = dict(zip(*(a.tolist() for a in np.unique(labels, return_counts=True)), strict=True))
    widths = {len(row) for row in rows}
    if header != [*names, target] or len(rows) != n_rows or found != counts or widths != {len(header)}:
        raise ValueError(f"{name}.csv inside prunopt must be the file that was packed; install prunopt again")
    X = np.array([[float(cell) if cell else math.nan for cell in row[:-1]] for row in rows], np.float64)
    return names, X, labels, about


def _dataset(
    name: str, target: str, names: tuple[str, ...], X: Floats, y: NDArray[np.str_], about: dict[str, Any]
) -> CostedDataset:
    return CostedDataset(
        name=name,
        X=X,
        y=y,
        target=target,
        feature_names=names,
        feature_costs={n: float(about["costs"][n]) for n in names},
        feature_groups=about["groups"],
        common_cost=about["common"],
        derived_from=about["derived_from"],
        categories={n: {int(c): m for c, m in codes.items()} for n, codes in about["categories"].items() if n in names},
        currency=about["currency"],
        source=about["source"],
        licence=about["licence"],
        description=about["description"],
    )


__getattr__ = renamed_names(__name__, PricedDataset="CostedDataset", Prices="CostList")
