"""Boosters fitted by XGBoost, LightGBM or scikit-learn's histogram boosting: read, pruned, written back."""

from prunopt.forests.boosters.booster import Booster as Booster
from prunopt.forests.boosters.reading import booster_of as booster_of
from prunopt.forests.boosters.reading import read_booster as read_booster

__all__ = ["Booster", "booster_of", "read_booster"]
