"""Pictures. Every function takes axes and returns them; ``ax=None`` makes new ones. Needs the extra ``plot``.

Colors are those of Okabe and Ito, which stay apart for every common color blindness; lines also differ by marker,
maps are drawn in cividis or in shades of one blue.
"""

from __future__ import annotations

from prunopt.core.deprecation import renamed_names
from prunopt.plots.axes import COLOURS, MARKERS, MissingExtra, new_axes, points_of
from prunopt.plots.curves import pareto, solver_trace
from prunopt.plots.forests import acquired_features
from prunopt.plots.networks import before_after, head_curves, head_map, latency, mask_density, sparsity_by_layer

__all__ = [
    "COLOURS",
    "MARKERS",
    "MissingExtra",
    "acquired_features",
    "before_after",
    "head_curves",
    "head_map",
    "latency",
    "mask_density",
    "new_axes",
    "pareto",
    "points_of",
    "solver_trace",
    "sparsity_by_layer",
]

__getattr__ = renamed_names(__name__, features_bought="acquired_features")
