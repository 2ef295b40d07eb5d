"""Soft masks in a network: gates, distillation, training, extraction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from prunopt.networks.cnn.channel_groups import channel_groups  # noqa: E402
from prunopt.networks.cnn.costs import measure  # noqa: E402
from prunopt.networks.soft_mask import Distillation, GatedNetwork, Gates, Training, soft_mask, train_soft_mask  # noqa: E402
from prunopt.networks.soft_mask.adapter import SoftMasks  # noqa: E402
from prunopt.networks.soft_mask.ranks import Ranks  # noqa: E402
from prunopt.solvers.relaxed.s2h import S2H  # noqa: E402


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 1),
        Residual(8),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def data(n: int = 24) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(n) % 3
    return torch.randn(n, 1, 6, 6, generator=generator) + y[:, None, None, None], y


def loader(n: int = 24, batch: int = 8, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data(n)), batch, shuffle=True, **options)


def gated(model: nn.Module) -> tuple[GatedNetwork, list[int], list[Any]]:
    groups = channel_groups(model, data()[0][:1])
    net = GatedNetwork(model, groups, groups.free)
    widths = [max(1, len(groups.members(g)) // 2) for g in groups.free]
    points = [(torch.arange(len(groups.members(g))) < w).float() for g, w in zip(groups.free, widths, strict=True)]
    return net, widths, points


@pytest.mark.parametrize("training", [True, False])
def test_masked_removed_and_extracted_agree(training: bool) -> None:
    model = network()
    net, widths, points = gated(model)
    x = data()[0]
    model.train()
    net.masked(x, points)
    model.train(training)
    held = {k: v.clone() for k, v in net.statistics().items()}
    small = net.extract(widths)
    masked = net.masked(x, points)
    after = net.statistics()
    net.restore_statistics(held)
    removed = net.removed(x, widths)
    assert torch.allclose(masked, removed, atol=1e-5)
    assert torch.allclose(masked, small(x), atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    norm, order = "1", net.ranks[0][: widths[0]]
    kept = net.groups.group[next(s for s in net.groups.slots if s.name == norm).outs] == net.chosen[0]
    assert kept.all()
    at = np.flatnonzero(np.isin(next(s for s in net.groups.slots if s.name == norm).outs, order))
    for k in ("running_mean", "running_var"):  # of channels that stay; of others nobody asks
        assert torch.allclose(after[f"{norm}.{k}"][at], net.statistics()[f"{norm}.{k}"][at], atol=1e-6)


def test_statistics_are_kept_apart() -> None:
    model = network()
    net, widths, points = gated(model)
    x, norm = data()[0], model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    statistics = norm.running_mean  # updated in place
    assert statistics is not None
    model.train()
    before = statistics.clone()
    net.removed(x, widths)
    net.masked(x, points)
    assert torch.equal(statistics, before)
    hard = net.statistics()["1.running_mean"].clone()
    assert not torch.equal(hard, before)
    net.soft(x, points)
    assert not torch.equal(statistics, before)
    assert torch.equal(net.statistics()["1.running_mean"], hard)


def test_open_gates_are_the_plain_network_and_are_taken_out() -> None:
    model, x = network().eval(), data()[0]
    plain = model(x)
    with soft_mask(model, "macs=0.5", x[:1]) as masks:
        masks.network.open([torch.ones(1, len(masks.network.groups.members(g))) for g in masks.network.chosen])
        assert torch.allclose(model(x), plain, atol=1e-6)
        assert not torch.allclose(masks.soft(x), plain, atol=1e-3)
    assert torch.equal(model(x), plain)
    assert not any(m._forward_pre_hooks for m in model.modules())


def gradients(masks: SoftMasks, soft: list[Any], hard: list[Any], learned: bool = True) -> tuple[Any, list[Any]]:
    x, y = data()
    masks.model.zero_grad()
    masks.model.train()
    lesson = masks.teach(x, lambda out: F.cross_entropy(out, y), soft, hard, masks=learned)
    return lesson, [p.grad.clone() for p in masks.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("hard_way", ["removed", "masked"])
def test_decoupled_distillation(hard_way: str) -> None:
    """Weights learn by task(soft) + KL(sg(soft) || hard), masks by task(soft) + KL(sg(hard) || soft)."""
    model, (x, y) = network(), data()
    rule = Distillation(weight=0.7, hard=hard_way)
    with soft_mask(model, "macs=0.5", x[:1], distillation=rule) as masks:
        net = masks.network
        hard = [(torch.arange(z.shape[1]) < (z.shape[1] + 1) // 2).float()[None] for z in masks.points()[0]]
        soft = [torch.linspace(1, 0.2, z.shape[1])[None] for z in hard]
        lesson, found = gradients(masks, soft, hard)
        settled, alone = gradients(masks, soft, hard, learned=False)
        for a, b in zip(alone, found, strict=True):  # weights learn the same, masks nothing
            assert torch.allclose(a, b, atol=1e-6)
        assert not any(z.any() for z in [*settled.task, *settled.distillation])
        leaves = [z.clone().requires_grad_() for z in soft]
        out_soft, out_hard = net.soft(x, leaves), net.masked(x, hard)
        task = F.cross_entropy(out_soft, y)
        to_hard = rule.divergence(out_soft.detach(), out_hard)
        wanted = torch.autograd.grad(task + 0.7 * to_hard, list(model.parameters()), retain_graph=True)
        for a, b in zip(found, wanted, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        of_task = torch.autograd.grad(task, leaves, retain_graph=True)
        of_soft = torch.autograd.grad(rule.divergence(out_hard.detach(), out_soft), leaves)
        for a, b in zip([*lesson.task, *lesson.distillation], [*of_task, *of_soft], strict=True):
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("mode", ["coupled", "reversed"])
def test_other_distillations(mode: str) -> None:
    model, (x, y) = network(), data()
    rule = Distillation(mode)
    with soft_mask(model, "macs=0.5", x[:1], distillation=rule) as masks:
        hard = [(torch.arange(z.shape[1]) < (z.shape[1] + 1) // 2).float()[None] for z in masks.points()[0]]
        soft = [torch.linspace(1, 0.2, z.shape[1])[None] for z in hard]
        lesson, found = gradients(masks, soft, hard)
        settled, alone = gradients(masks, soft, hard, learned=False)
        for a, b in zip(alone, found, strict=True):  # weights learn the same, masks nothing
            assert torch.allclose(a, b, atol=1e-6)
        assert not any(z.any() for z in [*settled.task, *settled.distillation])
        s, h = [z.clone().requires_grad_() for z in soft], [z.clone().requires_grad_() for z in hard]
        out_soft, out_hard = masks.network.soft(x, s), masks.network.masked(x, h)
        to_hard = rule.divergence(out_soft.detach(), out_hard)
        to_soft = rule.divergence(out_hard.detach(), out_soft)
        task = F.cross_entropy(out_soft, y)
        both = mode == "coupled"
        whole = task + to_soft + (to_hard if both else 0)
        wanted = torch.autograd.grad(whole, list(model.parameters()), retain_graph=True)
        for a, b in zip(found, wanted, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        of_hard = torch.autograd.grad(to_hard, h)
        of_soft = torch.autograd.grad(to_soft, s)
        for k, got in enumerate(lesson.distillation):
            assert torch.allclose(got, of_hard[k] + of_soft[k] if both else of_hard[k], atol=1e-5)


def test_compiled_forward_gives_the_same() -> None:
    model, (x, y) = network(), data()
    compiled = torch.compile(model, backend="aot_eager")
    found = []
    for forward in (None, compiled):
        fresh = network().state_dict()
        model.load_state_dict(fresh)
        rule = Distillation(hard="masked")
        with soft_mask(model, "macs=0.5", x[:1], distillation=rule, gates=Gates(forward=forward)) as masks:
            model.train()
            lesson = masks.backward(x, lambda out: F.cross_entropy(out, y))
            masks.step()
            second = masks.backward(x, lambda out: F.cross_entropy(out, y))
            found.append([lesson.soft, lesson.hard, second.soft, second.hard, *map(float, second.task[0][0])])
    torch._dynamo.reset()
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_half_precision_and_a_loop_of_ones_own() -> None:
    model, (x, y) = network(), data()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    with soft_mask(
        model, "macs=0.5", x[:1], gates=Gates(precision=torch.bfloat16), solver=S2H(learning_rate=0.1)
    ) as masks:
        model.train()
        losses = []
        for n in range(30):
            optimizer.zero_grad()
            losses.append(masks.backward(x, lambda out: F.cross_entropy(out, y)).soft)
            optimizer.step()
            masks.step(n / 30)
            masks.network.rerank()
        assert losses[-1] < 0.5 * losses[0]
        small = masks.extract("exact", batches=[x])
        assert masks.settled is None
        assert masks.settle().tolist() == masks.widths.tolist()
    assert measure(small, x[:1], ["macs"])["macs"] <= 0.5 * measure(model, x[:1], ["macs"])["macs"]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_budget_holds_exactly_and_the_gap_closes(share: float) -> None:
    model, batches = network(), loader()
    dense = measure(model, data()[0][:1], ["macs"])["macs"]
    result = train_soft_mask(
        model, batches, budget=f"macs={share}", training=Training(12), solver=S2H(learning_rate=0.1)
    )
    used = measure(result.model, data()[0][:1], ["macs"])["macs"]
    assert used == result.used <= share * dense == pytest.approx(result.limit)
    history = result.solution.stats["history"]
    assert history[-1]["gap"] == 0
    assert history[-1]["hard"] < history[0]["hard"]
    assert "coupled-dp" in result.solution.message


def weights(model: nn.Module) -> bytes:
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


@pytest.mark.parametrize("cut", [3, 7])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, cut: int, kind: str) -> None:
    def run(folder: Path | None, stop: int | None) -> Any:
        model = network()
        adam = torch.optim.Adam(model.parameters(), 1e-3) if kind == "adam" else None

        def interrupt(step: int, _: Any) -> None:
            if step == stop:
                raise RuntimeError("stopped by the test")

        training = Training(3, optimizer=adam, folder=folder, every=2)
        return train_soft_mask(model, loader(), budget="macs=0.5", training=training, callback=interrupt)

    whole = run(None, None)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run(tmp_path, cut)
    resumed = run(tmp_path, None)
    assert weights(resumed.model) == weights(whole.model)
    assert resumed.solution.objective == whole.solution.objective
    assert np.array_equal(resumed.solution.value, whole.solution.value)
    with pytest.raises(ValueError, match="must belong to this problem, seed and options, got others"):
        train_soft_mask(network(1), loader(), budget="macs=0.5", training=Training(3, folder=tmp_path, every=2))


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state() -> None:
    model, calls, held = network(), [], []

    def criterion(out: Any, y: Any) -> Any:
        calls.append(1)
        loss = F.cross_entropy(out, y)
        return loss * float("nan") if len(calls) in (9, 10) else loss

    def keep(step: int, _: Any) -> None:
        held.append({k: v.clone() for k, v in model.state_dict().items()})

    result = train_soft_mask(
        model, loader(), budget="macs=0.5", training=Training(4, criterion=criterion), callback=keep
    )
    assert "not finite" in result.solution.stats["stopped"]
    assert result.solution.stats["steps"] == len(held) == 4
    for k, v in model.state_dict().items():
        assert torch.equal(v, held[-1][k]), k


class EndsEarly:
    """A loader whose second pass breaks off after one batch."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        x, y = data()
        for k in range(1 if self.passes == 3 else 3):
            yield x[8 * k : 8 * k + 8], y[8 * k : 8 * k + 8]


def test_a_loader_that_ends_early() -> None:
    result = train_soft_mask(network(), EndsEarly(), budget="macs=0.5", training=Training(3))
    assert "ended early, in epoch 1 after 1 batches" in result.solution.stats["stopped"]
    assert result.used <= result.limit


def test_channels_by_hand_in_a_feed_forward_layer() -> None:
    """Tokens (batch, length, features): gates sit on the last axis."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 4))
    x = torch.randn(5, 3, 6)
    groups = channel_groups(model, x, groups=[[("1", "out"), ("3", "in")]])
    with soft_mask(model, "parameters=0.6", x, gates=Gates(groups=groups)) as masks:
        small, hard = masks.extract(), [int(w) for w in masks.solver.rounded(masks.task.form, masks.logits).choice[0]]
        width = masks.task.widths_of([hard])
        points = [(torch.arange(12) < int(width[0])).float()]
        assert torch.allclose(small(x), masks.network.masked(x, points), atol=1e-5)
        assert small.get_submodule("1").out_features == int(width[0]) < 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": "macs=0.001"}, "budget must be >= 1344"),
        ({"budget": "watts=1"}, "resource of budget"),
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"divisor": 0}, "divisor must be a whole number >= 1, got 0"),
        ({"loader": []}, "no batch"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(36, 3))}, "must have a group of channels"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"model": network(), "loader": loader(), "budget": "macs=0.5", "epochs": 1} | change
    with pytest.raises(ValueError, match=message):
        train_soft_mask(
            given["model"],
            given["loader"],
            budget=given["budget"],
            training=Training(given["epochs"]),
            gates=Gates(divisor=given.get("divisor")),
        )


def test_old_keywords_train_the_same_network() -> None:
    with pytest.warns(DeprecationWarning, match=r"training=Training\(epochs=\.\.\.\)|gates=Gates\(divisor=\.\.\.\)"):
        old = train_soft_mask(network(), loader(), budget="macs=0.5", epochs=1, divisor=2)  # type: ignore[call-arg]
    new = train_soft_mask(network(), loader(), budget="macs=0.5", training=Training(1), gates=Gates(divisor=2))
    assert weights(old.model) == weights(new.model)


def test_bad_distillation() -> None:
    with pytest.raises(ValueError, match=r"mode must be one of .*got 'both'"):
        Distillation("both")
    with pytest.raises(ValueError, match="must be masked for this distillation"):
        Distillation("coupled", hard="removed")
    with pytest.raises(RuntimeError, match="backward first"), soft_mask(network(), example=data()[0][:1]) as masks:
        masks.step()
    with pytest.raises(ValueError, match="example must be an input"), soft_mask(network(), "macs=0.5"):
        pass


class Padded(nn.Module):
    """A shortcut filled up with zeros: the first layer's channels are some of the second's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 1, 1), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        first = torch.relu(self.one(x))
        return self.last(torch.relu(F.pad(first, (0, 0, 0, 0, 2, 2)) + self.two(first)).mean((2, 3)))


def test_the_smallest_widths_leave_every_layer_a_channel() -> None:
    torch.manual_seed(0)
    model, x = Padded().eval(), data()[0]
    with soft_mask(model, "macs=0.5", x[:1]) as masks:
        least = [int(row[0]) for row in masks.task.widths]
        small: Any = masks.network.extract(least)
        assert min(small.one.out_channels, small.two.out_channels) >= 1
        assert torch.allclose(small(x), masks.network.removed(x, least), atol=1e-5)
        assert measure(small, x[:1], ["macs"])["macs"] <= masks.task.used(np.array(least))


def test_costs_are_those_of_the_extracted_network_where_a_shortcut_ties_different_widths() -> None:
    torch.manual_seed(0)
    model, x = Padded(), torch.randn(2, 1, 6, 6)
    dense = measure(model, x[:1], ("macs",))["macs"]
    with soft_mask(model, "macs=0.5", x[:1], gates=Gates(divisor=1)) as masks:
        rng = np.random.default_rng(0)
        for _ in range(12):
            with torch.no_grad():  # another order of importance every time
                for p in model.parameters():
                    p.copy_(torch.randn(p.shape) * torch.rand(1))
            masks.network.rerank()
            widths = np.array([rng.choice(row) for row in masks.task.widths])
            small = masks.network.extract(widths.tolist())
            assert measure(small, x[:1], ("macs",))["macs"] == pytest.approx(masks.task.used(widths), abs=0.5)
        masks.solver = S2H()
        masks.settle()
        used = measure(masks.extract(), x[:1], ("macs",))["macs"]
    assert 0.3 * dense < used <= 0.5 * dense


def test_a_width_is_the_same_share_of_every_layer_that_a_shortcut_ties() -> None:
    slots = [
        SimpleNamespace(ins=np.arange(12), outs=np.arange(12)),
        SimpleNamespace(ins=np.arange(4), outs=np.arange(4)),
    ]
    groups: Any = SimpleNamespace(n_channels=12, slots=slots, fixed=np.zeros(12, bool))
    ranks = Ranks(groups, np.arange(12))
    score = np.random.default_rng(3).random(12) + np.r_[np.zeros(4), np.ones(8)]  # the narrow layer's norms are small
    order = ranks.order(score)
    assert sorted(order) == list(range(12))
    assert order[0] == np.argmax(score[:4])  # it is in both layers, so that none is left empty
    for part in (order[order < 4], order[order >= 4]):
        assert list(part) == sorted(part, key=lambda c: -score[c])
    for width in range(1, 13):
        kept = int((order[:width] < 4).sum())
        assert abs(kept - width / 3) <= 1
        assert ranks.features(np.arange(4), width) == kept
        assert ranks.features(np.repeat(np.arange(12), 2), width) == 2 * width
