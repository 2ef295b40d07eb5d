"""Files that XGBoost 3.2 and LightGBM 4.7 wrote, with the predictions of those libraries; damaged and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunopt.forests.boosters import Booster, read_booster

DATA = Path(__file__).parent / "data"
TOLD = json.loads((DATA / "predictions.json").read_text())
ROWS = np.array(TOLD["rows"], np.float64)
FILES = sorted(p.name for p in DATA.iterdir() if p.name != "predictions.json")


def predicted(model: Booster) -> Any:
    """What the library's own ``predict`` gives: the second class's probability, all of them, or numbers."""
    if model.model.classes is None:
        return model.predict(ROWS)
    chances = model.predict_proba(ROWS)
    return chances[:, 1] if chances.shape[1] == 2 else chances


@pytest.mark.parametrize("name", FILES)
def test_predictions_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    model, told = read_booster(DATA / name), np.array(TOLD[name.partition(".")[0]])
    np.testing.assert_allclose(predicted(model), told, rtol=2e-6, atol=1e-6)
    model.save(tmp_path / name)
    np.testing.assert_array_equal(predicted(read_booster(tmp_path / name)), predicted(model))


@pytest.mark.parametrize("name", FILES)
def test_a_pruned_file_predicts_the_kept_nodes(name: str, tmp_path: Path) -> None:
    model = read_booster(DATA / name)
    e = model.ensemble
    rng = np.random.default_rng(0)
    split = np.zeros(e.n_nodes, np.bool_)
    for h in e.internal:
        split[h] = (e.parent[h] < 0 or split[e.parent[h]]) and rng.random() < 0.7
    assert 0 < split.sum() < len(e.internal)
    model.pruned(split[e.internal]).save(tmp_path / name)
    again = read_booster(tmp_path / name)
    assert len(again.ensemble.internal) == split.sum()
    scores = np.tile(model.model.base, (len(ROWS), 1))
    for i, row in enumerate(e.rows(ROWS)):  # walked by hand
        for t in range(e.n_trees):
            h = int(e.offsets[t])
            while split[h]:
                value = row[e.feature[h]]
                left = e.missing_left[h] if np.isnan(value) else value <= e.threshold[h]
                h = int(e.left[h] if left else e.right[h])
            scores[i, model.output[h]] += model.value[h]
    np.testing.assert_allclose(again.scores(ROWS), scores, rtol=1e-6, atol=1e-6)


def test_a_node_that_becomes_a_leaf_takes_the_mean_of_its_leaves_by_their_covers() -> None:
    document = json.loads((DATA / "xgboost_two.json").read_text())
    tree = document["learner"]["gradient_booster"]["model"]["trees"][0]
    leaf = np.array(tree["left_children"]) < 0
    value = np.array(tree["split_conditions"])[leaf], np.array(tree["sum_hessian"])[leaf]
    model = read_booster(DATA / "xgboost_two.json")
    assert model.value[0] == pytest.approx(np.average(value[0], weights=value[1]))


def damaged_json(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> str:
    document = json.loads((DATA / "xgboost_two.json").read_text())
    change(document["learner"], document["learner"]["gradient_booster"]["model"]["trees"][0])
    return json.dumps(document)


JSON: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "dart": (lambda m, t: m["gradient_booster"].update(name="dart"), "must be of the booster gbtree"),
    "objective": (lambda m, t: m["objective"].update(name="rank:ndcg"), "must have the objective"),
    "categories": (lambda m, t: t["split_type"].__setitem__(0, 1), "must split on numbers"),
    "vectors": (lambda m, t: t["tree_param"].update(size_leaf_vector="3"), "one number in each leaf"),
    "circle": (lambda m, t: t["left_children"].__setitem__(1, 0), "children exist once"),
    "out of the tree": (lambda m, t: t["right_children"].__setitem__(0, 999), "children exist once"),
    "one child": (lambda m, t: t["right_children"].__setitem__(0, -1), "children exist once"),
    "feature": (lambda m, t: t["split_indices"].__setitem__(0, 4), "must test features below 4"),
    "no feature": (lambda m, t: t["split_indices"].__setitem__(0, -2), "must test a feature at each split"),
    "short": (lambda m, t: t["default_left"].pop(), "must"),
    "output": (lambda m, t: m["gradient_booster"]["model"]["tree_info"].__setitem__(0, 7), "must"),
    "no number": (lambda m, t: t["split_conditions"].__setitem__(0, "x"), "must"),
    "NaN": (lambda m, t: t["split_conditions"].__setitem__(-1, float("nan")), "must have finite leaves"),
    "nothing": (lambda m, t: m.clear(), "must be XGBoost's JSON of a model"),
}


@pytest.mark.parametrize("what", JSON)
def test_json_that_is_no_such_model_is_refused(what: str, tmp_path: Path) -> None:
    change, message = JSON[what]
    (tmp_path / "model.json").write_text(damaged_json(change))
    with pytest.raises(ValueError, match=message):
        read_booster(tmp_path / "model.json")


TEXT: dict[str, tuple[str, str, str]] = {
    "linear": ("is_linear=0", "is_linear=1", "must"),
    "average": ("max_feature_idx=3", "max_feature_idx=3\naverage_output", "must add its trees"),
    "objective": ("objective=binary sigmoid:1", "objective=lambdarank", "must have the objective"),
    "categories": ("decision_type=", "decision_type=1 ", "must"),
    "leaves": ("num_leaves=5", "num_leaves=6", "must"),
    "child": ("left_child=", "left_child=77 ", "must"),
    "feature": ("split_feature=", "split_feature=9 ", "must"),
    "no number": ("leaf_value=", "leaf_value=x ", "must"),
    "half": ("Tree=1", "\x00", "must"),
}


@pytest.mark.parametrize("what", TEXT)
def test_text_that_is_no_such_model_is_refused(what: str, tmp_path: Path) -> None:
    old, new, message = TEXT[what]
    text = (DATA / "lightgbm_two.txt").read_text()
    assert old in text
    (tmp_path / "model.txt").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_booster(tmp_path / "model.txt")


@pytest.mark.parametrize("name", ["xgboost_two.json", "lightgbm_two.txt"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7])
def test_a_truncated_file_is_refused(name: str, share: float, tmp_path: Path) -> None:
    text = (DATA / name).read_text()
    (tmp_path / name).write_text(text[: int(share * len(text.partition("end of trees")[0]))])
    with pytest.raises(ValueError, match="must"):
        read_booster(tmp_path / name)


def test_zeros_that_count_as_missing_are_refused(tmp_path: Path) -> None:
    lines = (DATA / "lightgbm_two.txt").read_text().split("\n")
    kinds = [k for k, line in enumerate(lines) if line.startswith("decision_type=")]
    lines[kinds[0]] = "decision_type=" + " ".join("6" for _ in lines[kinds[0]].split())
    (tmp_path / "model.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="tell zeros from missing values"):
        read_booster(tmp_path / "model.txt")


@pytest.mark.parametrize("name", ["model.ubj", "model.pkl", "model.joblib", "model.bin"])
def test_other_formats_are_refused_with_the_mend(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04model")
    with pytest.raises(ValueError, match="save_model"):
        read_booster(tmp_path / name)
