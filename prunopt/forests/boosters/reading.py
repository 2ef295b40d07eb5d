"""Which booster something is: a file by its ending, an object by the package of its class."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.core.validate import Shown, invalid, require
from prunopt.forests.boosters.booster import Booster
from prunopt.forests.boosters.hist_gradient_boosting import HistGradientBoostingModel
from prunopt.forests.boosters.lightgbm_text import LightGBMModel
from prunopt.forests.boosters.xgboost_json import XGBoostModel

LARGEST = 2**31  # bytes of a model's file


def read_booster(path: str | os.PathLike[str]) -> Booster:
    """Read a model of XGBoost (``.json``) or LightGBM (``.txt``), without either library.

    Parameters
    ----------
    path
        What ``save_model`` of the library wrote.

    Raises
    ------
    ValueError
        If the file is not such a model, or one with categorical splits, linear leaves or a loss that is not known.
    """
    file = Path(path)
    require(file.is_file(), "path", "be a file that exists", str(path))
    size = file.stat().st_size
    require(size <= LARGEST, "path", f"be at most {LARGEST} bytes", size)
    mend = "write it by save_model('model.json') of XGBoost, or save_model('model.txt') of LightGBM"
    require(file.suffix in (".json", ".txt"), "path", "end in .json or .txt", str(path), mend)
    try:
        text = file.read_text("utf-8")
        if file.suffix == ".json":
            return XGBoostModel(json.loads(text))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise invalid("path", "be XGBoost's JSON or LightGBM's text", Shown(f"{path} ({error})"), mend) from None
    return LightGBMModel(text)


def booster_of(model: Any) -> Booster | None:
    """Return a model of XGBoost, LightGBM or scikit-learn's histogram boosting as a `Booster`, None for others."""
    if isinstance(model, Booster):
        return model
    package = type(model).__module__.partition(".")[0]
    if package == "xgboost":
        booster = model.get_booster() if hasattr(model, "get_booster") else model
        return XGBoostModel(json.loads(bytes(booster.save_raw("json"))), _labels(model))
    if package == "lightgbm":
        booster = getattr(model, "booster_", model)
        return LightGBMModel(booster.model_to_string(), _labels(model))
    if package == "sklearn":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        if isinstance(model, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
            return HistGradientBoostingModel(model)
    return None


def in_its_library(model: Any, pruned: Any) -> Any:
    """Return a pruned booster as the library of ``model`` has it: a Booster of XGBoost or LightGBM."""
    package = type(model).__module__.partition(".")[0]
    if package == "xgboost":
        import xgboost

        return xgboost.Booster(model_file=bytearray(pruned.text().encode()))
    if package == "lightgbm":
        import lightgbm

        return lightgbm.Booster(model_str=pruned.text())
    return pruned


def _labels(model: Any) -> Any:
    classes = getattr(model, "classes_", None)
    return None if classes is None else np.asarray(classes)
