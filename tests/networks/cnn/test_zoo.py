"""Every network of the zoo is pruned right, or what is not understood stays whole with a word."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from prunopt.networks.cnn import prune_cnn  # noqa: E402
from prunopt.networks.cnn.channel_groups import channel_groups  # noqa: E402
from prunopt.networks.cnn.cut_check import deviation  # noqa: E402
from prunopt.networks.cnn.inputs import batch_of, called, tensors_of  # noqa: E402
from prunopt.networks.cnn.profile import Widths  # noqa: E402
from prunopt.networks.cnn.surgery import remove_channels  # noqa: E402
from tests.networks.cnn.zoo import PARTLY, ZOO  # noqa: E402

torch.set_num_threads(1)
WHOLE = {"recurrent"}  # nothing in it can be removed


@pytest.mark.parametrize("name", sorted(set(ZOO) - WHOLE))
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_pruned_right_or_pinned(name: str) -> None:
    model, x = ZOO[name]()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = prune_cnn(
        model, x, budget="macs=0.7", importance="magnitude", widths=Widths(round_to=2), repair=None
    )  # compares one pass with the masked network's, and raises where they differ
    assert result.used <= result.limit
    outputs, wanted = (tensors_of(called(m, batch_of(x))) for m in (result.model, model))
    assert [t.shape for t in outputs] == [t.shape for t in wanted]
    assert bool(result.groups.pinned) == (name in PARTLY)
    assert any(row["after"] < row["before"] for row in result.report)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_nothing_to_remove_is_one_line() -> None:
    model, x = ZOO["recurrent"]()
    with pytest.raises(ValueError, match=r"not followed: module 'r' \(GRU\)"):
        prune_cnn(model, x, importance="magnitude", repair=None)


@pytest.mark.parametrize("name", ["tied_weights", "shared_module"])
def test_what_is_tied_stays_tied(name: str) -> None:
    model, x = ZOO[name]()
    found: Any = prune_cnn(
        model, x, budget="macs=0.6", importance="magnitude", widths=Widths(round_to=2), repair=None
    ).model
    if name == "tied_weights":
        assert found.one.weight is found.two.weight
        assert found.one.weight.shape[0] < 16


def test_a_wrong_cut_is_noticed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    x = torch.randn(2, 3, 4, 4)
    groups = channel_groups(model, x)
    keep = np.ones(groups.n_channels, np.bool_)
    keep[groups.members(groups.free[0])[:3]] = False
    good: Any = remove_channels(model, groups, keep)
    assert deviation(model, good, groups, keep, x) is None
    broken = copy.deepcopy(good)
    with torch.no_grad():
        broken[2].weight[0, 0] += 1e-3
    assert "off by" in str(deviation(model, broken, groups, keep, x))
    broken[2] = nn.Conv2d(8, 2, 1)
    assert "module '2' (Conv2d) does not run" in str(deviation(model, broken, groups, keep, x))


def test_pictures_with_their_channels_last_that_are_viewed() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.f = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1), nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            x = F.max_pool2d(F.relu(self.b(F.relu(self.a(x)))), 4)
            return self.f(x.view(x.size(0), -1))

    torch.manual_seed(0)
    result = prune_cnn(Viewed().eval(), torch.randn(12, 3, 16, 16), budget="macs=0.5")
    assert result.used <= result.limit
    assert result.model(torch.randn(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(
    "name", ["several_inputs", "dict_input", "feature_pyramid", "conv_1d", "conv_3d", "auto_encoder"]
)
@pytest.mark.parametrize("importance", ["obs", "fisher", "taylor"])
def test_importances_of_other_inputs_and_outputs(name: str, importance: str) -> None:
    model, x = ZOO[name]()
    widths = Widths(round_to=4, loss="measured" if importance == "obs" else "layers", probe=1)
    result = prune_cnn(model, x, budget="macs=0.7", importance=importance, widths=widths)
    assert result.used <= result.limit
    assert all(np.isfinite(row["loss"]) for row in result.report)


@pytest.mark.parametrize("importance", ["magnitude", "obs"])
@pytest.mark.parametrize("share", [0.45, 0.6, 0.8])
def test_no_width_leaves_a_layer_with_padding_alone(importance: str, share: float) -> None:
    model: Any
    model, x = ZOO["padded_shortcuts"]()
    model.train()
    model.a.eval()
    result = prune_cnn(model, x, budget=f"macs={share}", importance=importance, widths=Widths(round_to=1))
    assert result.used <= result.limit
    assert min(m.weight.shape[0] for m in result.model.modules() if isinstance(m, nn.Conv2d)) >= 1
    assert model.training  # as it came, module by module
    assert not model.a.training
