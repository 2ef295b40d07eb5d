"""Pruning a small convolutional network: budgets, repair, windows, tuning, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from prunopt import Budget  # noqa: E402
from prunopt.networks.cnn._tracing import Tracer  # noqa: E402
from prunopt.networks.cnn.channel_groups import channel_groups  # noqa: E402
from prunopt.networks.cnn.checkpoints import load_cnn  # noqa: E402
from prunopt.networks.cnn.costs import measure  # noqa: E402
from prunopt.networks.cnn.deprune import deprune, depthwise_task  # noqa: E402
from prunopt.networks.cnn.fine_tuning import FineTuning, fine_tune  # noqa: E402
from prunopt.networks.cnn.importances import IMPORTANCES, Candidates, Fisher, Obs  # noqa: E402
from prunopt.networks.cnn.latency import LatencyTable, LayerShape, folded  # noqa: E402
from prunopt.networks.cnn.models import picture, read_pictures  # noqa: E402
from prunopt.networks.cnn.patches import patches  # noqa: E402
from prunopt.networks.cnn.profile import Widths, profile_cnn  # noqa: E402
from prunopt.networks.cnn.pruning import parse_budget, prune_cnn  # noqa: E402
from prunopt.networks.cnn.repair import Repair, divergence, logits, reestimated, repair  # noqa: E402
from prunopt.networks.cnn.surgery import remove_channels  # noqa: E402
from prunopt.networks.cnn.windowed_conv import (  # noqa: E402
    Window,
    WindowedConv2d,
    best_windows,
    choose_windows,
    windows_of,
    with_windows,
)

torch.set_num_threads(1)


def unit(ins: int, outs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outs), nn.ReLU6()]


class Block(nn.Module):
    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        last = [nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.body = nn.Sequential(*unit(width, hidden, 1), *unit(hidden, hidden, kernel, groups=hidden), *last)

    def forward(self, x: Any) -> Any:
        return x + self.body(x)


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    parts = [*unit(3, 16, 3, 2), Block(16, 32, 3), Block(16, 32, 5)]
    head = nn.Linear(24, 6)
    with torch.no_grad():
        head.weight.mul_(30)  # predictions of some weight
    return nn.Sequential(*parts, *unit(16, 24, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


@pytest.fixture(scope="module")
def images() -> Any:
    return torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_budget_of_macs_is_met_and_proven(importance: str, images: Any) -> None:
    model = network()
    result = prune_cnn(
        model, images, budget=Budget("macs", share=0.6), importance=importance, widths=Widths(round_to=4)
    )
    assert result.solution.status.name == "OPTIMAL"
    counted = measure(result.model, images[:1], ("macs",))["macs"]
    assert counted == result.used <= result.limit == 0.6 * measure(model, images[:1], ("macs",))["macs"]
    assert result.used > 0.5 * result.total
    assert {r["after"] <= r["before"] for r in result.report} == {True}


def test_fisher_lets_go_first_what_no_prediction_depends_on(images: Any) -> None:
    """Half of the middle channels feed outputs that the classifier multiplies with nothing."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()
    with torch.no_grad():
        model[0].weight[::2] *= 3  # the useless ones are the louder
        model[2].weight[:2, ::2] = model[2].weight[2:, 1::2] = 0  # outputs 0, 1 read odd channels, 2, 3 even ones
        model[6].weight[:, 2:] = 0
    groups = channel_groups(model, images[:1])
    middle = int(groups.group[next(s for s in groups.slots if s.name == "0").outs[0]])
    members = groups.members(middle)
    fisher, obs = (i.rank(Candidates(model, groups, [middle], images))[0] for i in (Fisher(), Obs()))
    assert set(fisher.order[:4]) == set(members[::2])
    assert set(obs.order[:4]) != set(members[::2])
    assert fisher.error[4] == pytest.approx(0, abs=1e-9)


def test_parameters_and_the_integer_program_agree(images: Any) -> None:
    ours, other = (
        prune_cnn(network(), images, budget="parameters=0.7", widths=Widths(levels=4, solver=solver), repair=None)
        for solver in (None, "pulp")
    )
    assert ours.solution.objective == pytest.approx(other.solution.objective, abs=1e-9)
    assert measure(ours.model, images[:1], ("parameters",))["parameters"] == ours.used


def test_repair_helps_and_needs_no_labels(images: Any) -> None:
    model = network()
    plain = prune_cnn(model, images, budget="macs=0.5", repair=None)
    mended = prune_cnn(model, images, budget="macs=0.5", repair=Repair(batch_norm="keep"))
    np.testing.assert_array_equal(plain.keep, mended.keep)
    fresh = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    wanted = logits(model, fresh)
    assert divergence(wanted, mended.model, fresh) < 0.7 * divergence(wanted, plain.model, fresh)


def test_repair_of_what_is_redundant_is_exact(images: Any) -> None:
    """Twice the same channel: without one of them, the least-squares weights restore the network."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5 * 144, 3)
    ).eval()
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]
        model[0].bias[1] = model[0].bias[0]
    groups = channel_groups(model, images[:1])
    keep = np.ones(groups.n_channels, np.bool_)
    keep[next(s for s in groups.slots if s.name == "0").outs[1]] = False
    smaller = remove_channels(model, groups, keep)
    repair(model, smaller, groups, keep, images, damping=1e-10)
    with torch.no_grad():
        assert torch.allclose(smaller(images), model(images), atol=1e-4)


def test_the_ranking_finds_the_dead_channel_first(images: Any) -> None:
    model = network()
    groups = channel_groups(model, images[:1])
    first = groups.slots[0]
    group = next(g for g in groups.free if "body.0" in groups.name_of(g))
    slot = next(s for s in groups.slots if s.kind == "conv" and groups.group[s.outs[0]] == group)
    with torch.no_grad():
        reader = next(s for s in groups.consumers(group))
        model.get_submodule(reader.name).weight[:, 7] = 0
    ranking = Obs().rank(Candidates(model, groups, [group], images))[0]
    assert ranking.order[0] == slot.outs[7]
    assert ranking.error[0] == 0
    assert ranking.error[1] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(ranking.error) >= -1e-12)
    assert first.name == "0"


def test_patches_are_what_a_convolution_multiplies(images: Any) -> None:
    conv: Any
    for conv in (nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, (1, 3), padding="same"), nn.Conv2d(3, 4, 5, padding=1)):
        rows = patches(conv, images[:2], None)
        with torch.no_grad():
            out = conv(images[:2]).flatten(2).transpose(1, 2).reshape(-1, 4)
            mine = rows @ conv.weight.flatten(1).T + conv.bias
        assert torch.allclose(out, mine, atol=1e-5)


def test_reestimated_norms_hold_the_pictures_statistics(images: Any) -> None:
    model = network()
    fresh: Any = reestimated(model, images, batch=24)
    first = model[0](images)
    assert torch.allclose(fresh[1].running_mean, first.mean((0, 2, 3)), atol=1e-5)
    assert model[1].running_mean.abs().max() == 0
    assert fresh[1].momentum == model[1].momentum
    assert not fresh.training


def test_folding_changes_nothing(images: Any) -> None:
    with torch.no_grad():
        assert torch.allclose(folded(network())(images), network()(images), atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 9])
def test_windows_are_masked_kernels(kernel: int, stride: int, size: int) -> None:
    torch.manual_seed(0)
    conv: Any = nn.Conv2d(4, 4, kernel, stride, kernel // 2, groups=4)
    x = torch.randn(2, 4, size, size + 1)
    for window in windows_of((kernel, kernel)):
        masked: Any = nn.Conv2d(4, 4, kernel, stride, kernel // 2, groups=4)
        mask = torch.zeros(kernel, kernel)
        mask[window.top : window.bottom, window.left : window.right] = 1
        with torch.no_grad():
            masked.weight.copy_(conv.weight * mask)
            masked.bias.copy_(conv.bias)
            out = WindowedConv2d(conv, window)(x)
            assert torch.allclose(out, masked(x), atol=1e-6), window


def test_the_best_window_holds_the_most_energy() -> None:
    weight = torch.zeros(2, 1, 3, 3)
    weight[:, 0, 1:, 1] = 2.0
    weight[0, 0, 0, 0] = 1.0
    window, lost = best_windows(weight)[2, 1]
    assert window == Window(1, 3, 1, 2)
    assert lost == pytest.approx(1 / 17)


def test_windows_are_chosen_from_times(images: Any) -> None:
    model, table = network(), LatencyTable("torch", repeats=1)
    for hidden, kernel in ((32, 3), (32, 5)):
        for h in range(1, kernel + 1):
            for w in range(1, kernel + 1):
                shape = LayerShape("conv", hidden, hidden, hidden, (h, w), (1, 1), (8, 8), 1)
                table.milliseconds[shape.key()] = float(h * w)
    choice = choose_windows(model, images[:1], 0.5, table)
    assert choice.milliseconds <= 17
    assert choice.solution.status.name == "OPTIMAL"
    smaller = with_windows(model, dict(zip(choice.names, choice.windows, strict=True)))
    with torch.no_grad():
        assert smaller(images).shape == model(images).shape
    Tracer().trace(smaller)
    with pytest.raises(ValueError, match="fastest windows"):
        choose_windows(model, images[:1], 0.01, table)
    with pytest.raises(ValueError, match="must have a depthwise"):
        choose_windows(nn.Conv2d(3, 4, 3), images[:1], 0.5, table)


def test_deprune_masks_whole_vectors(images: Any) -> None:
    model = network()
    masked, solution = deprune(model, images, budget=0.5, tile=8)
    assert solution.status.name == "OPTIMAL"
    task, names = depthwise_task(model, images, budget=0.5, tile=8)
    assert task.latency(solution.value) <= 0.5 * task.dense_latency
    for name, mask in zip(names, solution.value, strict=True):
        layer: Any = masked.get_submodule(name)
        weight = layer.weight.detach().numpy()[:, 0]
        np.testing.assert_array_equal(weight != 0, mask)
    kept = [int(m.sum()) for m in solution.value]
    assert all(k % 8 == 0 for k in kept)


class Counted(LatencyTable):
    """A table in which a layer takes as long as it has multiply-adds: nothing depends on the clock."""

    def fill(self, shapes: Any, progress: Any = None) -> None:
        for s in shapes:
            taps = s.kernel[0] * s.kernel[1] * s.size[0] * s.size[1] / (s.stride[0] * s.stride[1])
            self.milliseconds[s.key()] = 1e-6 * taps * s.ins * s.outs / s.groups


def test_a_budget_in_milliseconds(images: Any) -> None:
    result = prune_cnn(network(), images, budget="latency_ms=0.7x", table=Counted(repeats=1), widths=Widths(levels=3))
    assert result.solution.status.name == "OPTIMAL"
    assert 0.5 * result.total < result.used <= result.limit == pytest.approx(0.7 * result.total)
    assert set(result.measured) == {"dense_ms", "ms", "predicted_ms"}


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_tables_are_kept(runtime: str, tmp_path: Path) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    path = tmp_path / "table.json"
    table = LatencyTable(runtime, path, repeats=1)
    shapes = [
        LayerShape("conv", 4, 4, 4, (3, 3), (2, 2), (8, 8), 1),
        LayerShape("linear", 3, 5, 1, (1, 1), (1, 1), (1, 1), 2),
    ]
    table.fill(shapes)
    assert all(table[s] > 0 for s in shapes)
    assert LatencyTable(runtime, path, repeats=1).milliseconds == table.milliseconds
    path.write_text(json.dumps({"about": {"processor": "another"}, "milliseconds": {"x": 1.0}}))
    assert LatencyTable(runtime, path).milliseconds == {}
    path.write_text("{")
    with pytest.raises(ValueError, match="delete it"):
        LatencyTable(runtime, path)


def test_measured_losses_are_monotone(images: Any) -> None:
    widths = Widths(loss="measured", probe=16, levels=4, round_to=4)
    result = prune_cnn(network(), images, budget="macs=0.6", widths=widths)
    assert result.solution.status.name == "OPTIMAL"
    assert all(r["loss"] >= 0 for r in result.report)


def test_a_loss_is_not_judged_on_the_pictures_it_was_resolved_on(images: Any) -> None:
    with pytest.raises(ValueError, match="2 pictures or more"):
        profile_cnn(network(), images[:1], widths=Widths(loss="measured"))


@pytest.mark.parametrize("loss", ["layers", "measured"])
def test_windows_and_widths_come_from_one_knapsack(loss: str, images: Any, tmp_path: Path) -> None:
    widths = Widths(loss=loss, probe=16, levels=3, round_to=4, windows=True)
    result = prune_cnn(network(), images, budget="macs=0.55", widths=widths)
    taps = {r["group"].removeprefix("taps of "): r for r in result.report if r["group"].startswith("taps of ")}
    depthwise = [n for n, m in network().named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert list(taps) == depthwise
    for name, row in taps.items():
        layer: Any = result.model.get_submodule(name)
        assert "x".join(map(str, layer.kernel_size)) == row["after"]
    used = measure(result.model, images[:1], ("macs",))["macs"]
    assert used == result.used <= result.limit
    if loss == "measured":
        assert any(r["after"] != r["before"] for r in taps.values())
    result.save(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(load_cnn(tmp_path / "out", network(1))(images), result.model(images))


def test_a_window_with_the_repair_loses_less(images: Any) -> None:
    model = network()
    name = next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
    groups, dense = channel_groups(model, images[:2]), logits(model, images)
    smaller = with_windows(model, {name: Window(0, 2, 0, 3)})
    before = divergence(dense, smaller, images)
    assert repair(model, smaller, groups, np.ones(groups.n_channels, np.bool_), images, batch=6) == 1
    assert divergence(dense, smaller, images) < before


def test_the_common_load_knows_a_convolutional_network(images: Any, tmp_path: Path) -> None:
    from prunopt.networks import load
    from prunopt.networks.cnn import save_cnn

    save_cnn(network(), tmp_path / "out")
    with pytest.raises(ValueError, match="be the network as it was before pruning"):
        load(tmp_path / "out")


def test_saved_results_come_back(images: Any, tmp_path: Path) -> None:
    result = prune_cnn(network(), images, budget="macs=0.6", widths=Widths(round_to=4))
    result.save(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(load_cnn(tmp_path / "out", network(1))(images), result.model(images))
    report = json.loads((tmp_path / "out" / "prunopt.json").read_text())["report"]
    assert report["used"] == result.used
    model = with_windows(network(), {"4.body.3": Window(1, 4, 0, 3)})
    from prunopt.networks.cnn.checkpoints import save_cnn

    save_cnn(model, tmp_path / "windows")
    with torch.no_grad():
        assert torch.equal(load_cnn(tmp_path / "windows", network(1))(images), model(images))


def test_tuning_holds_masks_and_goes_on(images: Any, tmp_path: Path) -> None:
    teacher = network()
    student, _ = deprune(teacher, images, budget=0.15, tile=8)
    masks = {n: p != 0 for n, p in student.named_parameters() if p.ndim == 4 and p.shape[1] == 1}
    before = divergence(logits(teacher, images), student, images)
    training = FineTuning(epochs=3, batch=8, learning_rate=1e-4, folder=tmp_path)
    losses = fine_tune(student, teacher, images, training=training, masks=masks)
    assert len(losses) == 3
    assert divergence(logits(teacher, images), student, images) < before
    parameters = dict(student.named_parameters())
    assert all(bool((parameters[n][~m] == 0).all()) for n, m in masks.items())
    other, _ = deprune(teacher, images, budget=0.15, tile=8)
    assert fine_tune(other, teacher, images, training=training, masks=masks) == losses
    assert torch.equal(next(other.parameters()), next(student.parameters()))
    with pytest.raises(ValueError, match="other options"):
        fine_tune(other, teacher, images[:8], training=training, masks=masks)


def test_a_profile_serves_many_budgets(images: Any) -> None:
    widths = Widths(round_to=4)
    profile = profile_cnn(network(), images, widths=widths)
    for budget in ("macs=0.8", "macs=0.5"):
        one, other = (prune_cnn(network(), images, budget=budget, widths=w, repair=None) for w in (profile, widths))
        np.testing.assert_array_equal(one.keep, other.keep)


def test_widths_on_offer() -> None:
    groups = channel_groups(network(), torch.zeros(1, 3, 16, 16))
    wide = next(g for g in groups.free if len(groups.members(g)) == 32)
    assert Widths().of(groups, wide) == [32, 24, 16, 8]
    assert Widths(levels=3, round_to=4).of(groups, wide) == [32, 28, 4]


def test_only_some_groups_and_a_training_behind_the_cut(images: Any) -> None:
    model = network()
    groups = channel_groups(model, images[:2])
    wide = [g for g in groups.free if len(groups.members(g)) == 32]
    only = Widths(groups=groups.only(wide), round_to=4)
    plain, tuned = (
        prune_cnn(model, images, budget="macs=0.6", widths=only, repair=None, training=training)
        for training in (None, FineTuning(epochs=2, learning_rate=1e-4))
    )
    assert sorted(r["before"] for r in plain.report) == [32, 32]
    np.testing.assert_array_equal(plain.keep, tuned.keep)
    dense = logits(model, images)
    assert divergence(dense, tuned.model, images) < divergence(dense, plain.model, images)
    assert "trained for 2 epochs" in tuned.notes[-1]


def test_the_old_reading_of_budgets_works_and_names_the_new_one() -> None:
    for text, read in (("macs=0.5", ("macs", 0.5, True)), ("latency_ms=12", ("latency_ms", 12.0, False))):
        with pytest.warns(DeprecationWarning, match=r"use Budget\.parse"):
            assert parse_budget(text) == read


def test_old_keywords_give_the_same_network_and_name_the_new_form(images: Any) -> None:
    model = network()
    group = channel_groups(model, images[:2]).free[0]
    with pytest.warns(DeprecationWarning, match="prune_cnn") as told:
        old = prune_cnn(  # type: ignore[call-arg]
            model,
            images,
            budget="macs=0.9",
            round_to=4,
            least=0.25,
            only=[group],
            refit=False,
            batch_norm="keep",
            name="mobilenetv2",
        )
    said = " ".join(str(w.message) for w in told)
    for form in ("widths=Widths(", "repair=Repair(refit=..., batch_norm=...)", ".only(...)", "save(folder, dense=...)"):
        assert form in said
    widths = Widths(round_to=4, least=0.25, groups=channel_groups(model, images[:2]).only([group]))
    new = prune_cnn(model, images, budget=Budget("macs", share=0.9), widths=widths, repair=None)
    np.testing.assert_array_equal(old.keep, new.keep)
    assert old.dense == "mobilenetv2"
    with pytest.warns(DeprecationWarning, match="the example alone"):
        bare = prune_cnn(model, None, example=images[:1], importance="magnitude", repair=None)  # type: ignore
    alone = prune_cnn(model, images[:1], importance="magnitude", repair=None)
    np.testing.assert_array_equal(bare.keep, alone.keep)
    with (
        pytest.warns(DeprecationWarning, match="the example alone"),
        pytest.raises(ValueError, match=r"calibration.*magnitude"),
    ):
        prune_cnn(model, None, example=images[:1])  # type: ignore


def test_bad_input(images: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"least that these widths allow.*pass macs=0\.\d+ or more"):
        prune_cnn(network(), images, budget="macs=0.001")
    with pytest.raises(ValueError, match=r"resource of the budget.*'heads'"):
        prune_cnn(network(), images, budget=Budget("heads", 3))
    with pytest.raises(ValueError, match='did you mean "taylor"'):
        prune_cnn(network(), images, importance="tailor")
    with pytest.raises(TypeError, match="example must be a tensor"):
        prune_cnn(network(), [1])
    for wrong in ({"levels": 1}, {"round_to": 0}, {"least": 2.0}, {"loss": "guess"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Widths(**wrong)
    with pytest.raises(ValueError, match="batch_norm"):
        Repair(batch_norm="best guess")
    with pytest.raises(ValueError, match="must have a group"):
        prune_cnn(nn.Sequential(nn.Conv2d(3, 4, 3)), images)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        read_pictures(tmp_path)
    with pytest.raises(ValueError, match="decoded"):
        picture(b"nothing")
    with pytest.raises(ValueError, match="graphics card"):
        LatencyTable("cuda")
