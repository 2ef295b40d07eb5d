"""Pruned boosters as treelite reads them, for those who compile or serve models with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunopt.forests import budget_path
from prunopt.forests.boosters import read_booster
from tests.forests.boosters.test_booster_files import DATA, FILES, ROWS, predicted


@pytest.mark.parametrize("name", FILES)
def test_treelite_predicts_the_same_of_a_pruned_file(name: str, tmp_path: Path) -> None:
    treelite = pytest.importorskip("treelite")
    model = read_booster(DATA / name)
    y = model.predict(ROWS)
    path = budget_path(model, ROWS, y, None)
    small = path.at(penalty=path.points[len(path.points) // 2].penalty)
    assert len(small.ensemble.internal) < len(model.ensemble.internal)
    small.save(tmp_path / name)
    read = treelite.frontend.load_xgboost_model if name.endswith(".json") else treelite.frontend.load_lightgbm_model
    rows: Any = ROWS.astype(model.ensemble.precision)
    found = np.squeeze(treelite.gtil.predict(read(tmp_path / name), rows, nthread=1))
    np.testing.assert_allclose(found, predicted(small), rtol=1e-5, atol=1e-6)
