"""Which channels of a group go first: the one registry of importances, for Python and the command alike."""

from __future__ import annotations

from prunopt.core import validate
from prunopt.networks.cnn.importances.fisher import Fisher as Fisher
from prunopt.networks.cnn.importances.magnitude import Magnitude as Magnitude
from prunopt.networks.cnn.importances.obs import Obs as Obs
from prunopt.networks.cnn.importances.ranking import Candidates as Candidates
from prunopt.networks.cnn.importances.ranking import Importance as Importance
from prunopt.networks.cnn.importances.ranking import Ranking as Ranking
from prunopt.networks.cnn.importances.taylor import Taylor as Taylor

IMPORTANCES: dict[str, type[Importance]] = {"obs": Obs, "fisher": Fisher, "taylor": Taylor, "magnitude": Magnitude}


def importance_of(importance: str | Importance) -> Importance:
    """Return an importance, by its short name or as it is."""
    if isinstance(importance, str):
        return IMPORTANCES[validate.one_of("importance", importance, IMPORTANCES)]()
    if not hasattr(importance, "rank"):
        raise TypeError(f"importance must be a name or an object with a method rank, got {importance!r}")
    return importance
