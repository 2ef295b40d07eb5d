"""Label-free distillation, the sample of pictures, and saving of what the zoo's networks are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from prunopt.networks.cnn import prune_cnn  # noqa: E402
from prunopt.networks.cnn.checkpoints import load_cnn, save_cnn  # noqa: E402
from prunopt.networks.cnn.inputs import batch_of, called, tensors_of  # noqa: E402
from prunopt.networks.cnn.models import few_classes, read_pictures, sample  # noqa: E402
from prunopt.networks.cnn.output_matching import OutputMatching, match_outputs  # noqa: E402
from prunopt.networks.cnn.profile import Widths  # noqa: E402
from prunopt.networks.cnn.repair import divergence, outputs_of  # noqa: E402
from tests.networks.cnn.zoo import ZOO  # noqa: E402

torch.set_num_threads(1)


def pair(seed: int = 0) -> tuple[Any, Any, Any]:
    torch.manual_seed(seed)
    teacher: Any = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        teacher[6].weight *= 20
    x = torch.randn(40, 3, 16, 16)
    student = prune_cnn(
        teacher, x, budget="macs=0.5", importance="magnitude", widths=Widths(round_to=2), repair=None
    ).model
    return teacher, student, x


def test_the_student_comes_nearer_on_pictures_that_it_has_not_seen() -> None:
    teacher, student, x = pair()
    new = torch.randn(40, 3, 16, 16)
    wanted = outputs_of(teacher, new)
    before = divergence(wanted, student, new)
    done = match_outputs(student, teacher, x, OutputMatching(minutes=1, steps=60, every=10, learning_rate=3e-3))
    assert done.after < done.before
    assert divergence(wanted, student, new) < before


def test_never_worse_than_before() -> None:
    teacher, student, x = pair()
    weights = {k: v.clone() for k, v in student.state_dict().items()}
    done = match_outputs(
        student, teacher, x, OutputMatching(minutes=1, steps=8, every=2, patience=3, learning_rate=50.0)
    )
    assert done.after == done.before
    assert all(torch.equal(weights[k], v) for k, v in student.state_dict().items())


def test_the_last_step_of_pruning() -> None:
    model, x = ZOO["several_inputs"]()
    x = tuple(torch.cat([t] * 5) for t in x)
    result = prune_cnn(model, x, budget="macs=0.6", importance="magnitude", widths=Widths(round_to=2),
                       training=OutputMatching(minutes=1, steps=4, every=2))  # fmt: skip
    assert any("distilled for" in note for note in result.notes)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="minutes"):
        OutputMatching(minutes=0)
    teacher, student, x = pair()
    with pytest.raises(ValueError, match="held out"):
        match_outputs(student, teacher, x[:3])


def test_a_sample_over_the_whole_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for k in range(12):
        (tmp_path / f"class{k // 4}").mkdir(exist_ok=True)
        image.new("RGB", (20 + k, 30), (20 * k, 0, 0)).save(tmp_path / f"class{k // 4}" / f"{k:02}_x.png")
    pictures, labels = read_pictures(tmp_path, limit=3, size=(8, 12), channels=1)
    assert pictures.shape == (3, 1, 8, 12)
    assert {int(k) // 4 for k in labels} == {0, 1, 2}
    assert read_pictures(tmp_path, limit=5, size=8, seed=1)[1].tolist() == sorted(sample(12, 5, seed=1))
    assert sample(10, 20) == list(range(10))


def test_a_few_classes_are_told() -> None:
    torch.manual_seed(0)
    spread = torch.eye(100)[torch.randint(100, (64,))]
    assert few_classes(spread) is None
    assert "look like 2 of 100" in str(few_classes(torch.eye(100)[torch.randint(2, (64,))]))


@pytest.mark.parametrize("name", ["convnext_scale_first", "frozen_batch_norm", "group_norm_each", "prelu_each",
                                  "conv_transpose_depthwise", "tied_weights", "weight_norm", "conv_3d"])  # fmt: skip
def test_round_trip(name: str, tmp_path: Path) -> None:
    model, x = ZOO[name]()
    found = prune_cnn(model, x, budget="macs=0.7", importance="magnitude", widths=Widths(round_to=2), repair=None).model
    save_cnn(found, tmp_path / "net")
    again: Any = load_cnn(tmp_path / "net", model)
    a, b = (tensors_of(called(m, batch_of(x))) for m in (found, again))
    assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    if name == "tied_weights":
        assert again.one.weight is again.two.weight
