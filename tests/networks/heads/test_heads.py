"""Gates, estimators, losses with kept prefixes, surgery, repair, saving and export of attention heads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunopt as po
from prunopt.networks import load
from prunopt.networks.heads import (
    Batch,
    HeadLoss,
    attention_parameters,
    contrastive_loss,
    embedding_loss,
    export_onnx,
    head_gates,
    head_importance,
    head_layers,
    label_loss,
    next_token_loss,
    prune_heads,
    remove_heads,
)
from prunopt.networks.heads.digits import DigitsTransformer, digits_data, digits_loss
from prunopt.networks.heads.losses import sentence_embeddings
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer
from prunopt.problems import HeadSelection

FAMILIES = ("llama", "qwen3", "gpt2", "bert")


class Classifier(nn.Module):
    """An encoder of torch's own attention, over a class token."""

    def __init__(self, batch_first: bool = True, heads: int = 4) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, heads, 32, dropout=0.1, batch_first=batch_first)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that nested tensors are off without batch_first
            self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        hidden = self.encoder(x, src_key_padding_mask=padding)
        out: Tensor = self.head(hidden.mean(1 if self.encoder.layers[0].self_attn.batch_first else 0))
        return out


def classifier(**options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(**options).eval()


def digits_model(layers: int = 2, heads: int = 3) -> DigitsTransformer:
    torch.manual_seed(0)
    model = DigitsTransformer(layers, heads, 24)
    for p in model.parameters():
        p.data.mul_(2.0)  # so that heads differ
    return model.eval()


def small_batches(sizes: tuple[int, ...] = (5, 4)) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(torch.rand(n, 64, generator=generator), torch.randint(0, 10, (n,), generator=generator)) for n in sizes
    ]


def random_kept(model: nn.Module, seed: int = 0, share: float = 0.5) -> Any:
    layers = head_layers(model)
    rng = np.random.default_rng(seed)
    return np.concatenate([np.repeat(rng.random(a.n_groups) < share, a.heads_per_group) for a in layers])


def family_batch(family: str) -> Batch:
    ids = tiny_tokens(3, 10)
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    return Batch({"input_ids": ids, "attention_mask": mask}, ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_at_one_change_no_bit_and_leave_nothing_behind(family: str) -> None:
    model, batch = tiny_transformer(family), family_batch(family)
    with torch.no_grad():
        before = outputs_raw(model, batch)
        with head_gates(model) as gates:
            assert all(g.requires_grad and bool((g == 1).all()) for g in gates.values)
            assert torch.equal(outputs_raw(model, batch), before)
            gates.set(np.zeros(sum(gates.n_heads)))
            assert not torch.allclose(outputs_raw(model, batch), before, atol=1e-3)
        assert torch.equal(outputs_raw(model, batch), before)
    hooks = [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert not hooks
    with pytest.raises(RuntimeError, match="inside"), head_gates(model):
        raise RuntimeError("inside")
    assert not [h for m in model.modules() for h in m._forward_pre_hooks]


@torch.no_grad()
def outputs_of(model: nn.Module, batch: Batch, kept: Any = None) -> Tensor:
    """The outputs with the heads of ``kept`` only, masked."""
    with head_gates(model) as gates:
        gates.set(kept)
        return outputs_raw(model, batch)


def outputs_raw(model: nn.Module, batch: Batch) -> Tensor:
    out = batch.run(model)
    found: Tensor = out if isinstance(out, Tensor) else out.logits if hasattr(out, "logits") else out.last_hidden_state
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_and_removed_agree(family: str) -> None:
    model, batch = tiny_transformer(family), family_batch(family)
    total = len(random_kept(model))
    first = head_layers(model)[0].n_heads
    whole_layer_gone = np.ones(total, np.bool_)
    whole_layer_gone[:first] = False
    for kept in (random_kept(model, 1), whole_layer_gone, np.zeros(total, np.bool_)):
        small = prune_heads(model, kept)
        with torch.no_grad():
            assert float((outputs_raw(small.model, batch) - outputs_of(model, batch, kept)).abs().max()) < 1e-5
        assert [a.n_heads for a in head_layers(small.model)] == [row.kept for row in small.report]
        count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.model.parameters())
        assert count == small.removed == round(float(attention_parameters(model)[~kept].sum()))


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_are_the_same(family: str, tmp_path: Path) -> None:
    model, batch = tiny_transformer(family), family_batch(family)
    kept = random_kept(model, 3)
    kept[: head_layers(model)[0].n_heads] = False
    small = prune_heads(model, kept)
    small.save(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(outputs_raw(load(tmp_path / "small"), batch), outputs_raw(small.model, batch))


def test_grouped_queries_stay_whole() -> None:
    model = tiny_transformer("llama")
    kept = np.ones(sum(a.n_heads for a in head_layers(model)), np.bool_)
    kept[0] = False
    with pytest.raises(ValueError, match=r"share a key-value head, got a part of group 0 of layer 0"):
        prune_heads(model, kept)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_torch_attention_is_gated_and_shrunk(batch_first: bool, padded: bool) -> None:
    model = classifier(batch_first=batch_first)
    x = torch.randn(3, 6, 16) if batch_first else torch.randn(6, 3, 16)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    # The fused path of torch fills padded places with zeros; what is compared is the path with gradients.
    plain = model(x, padding if padded else None)
    with head_gates(model) as gates:
        assert gates.n_heads == (4, 4)
        gated = model(x, padding if padded else None)
        assert float((gated - plain).detach().abs().max()) < 1e-6
        slope = torch.autograd.grad(gated.sum(), gates.values)
        assert all(bool((s != 0).all()) for s in slope)
    assert torch.equal(model(x, padding if padded else None), plain)
    kept = np.array([True, False, True, False, False, False, False, False])
    with torch.no_grad(), head_gates(model) as gates:
        gates.set(kept)
        masked = model(x, padding if padded else None)
    small = prune_heads(model, kept).model
    with torch.no_grad():
        assert float((small(x, padding if padded else None) - masked).abs().max()) < 1e-5
    assert [a.n_heads for a in head_layers(small)] == [2, 0]


@pytest.mark.parametrize(("need_weights", "average"), [(True, True), (True, False), (False, True)])
def test_torch_attention_by_itself(need_weights: bool, average: bool) -> None:
    torch.manual_seed(1)
    holder = nn.ModuleDict({"a": nn.MultiheadAttention(12, 3, kdim=5, vdim=7)}).eval()
    attention: Any = holder["a"]
    q, k, v = torch.randn(4, 2, 12), torch.randn(6, 2, 5), torch.randn(6, 2, 7)
    mask = torch.triu(torch.ones(4, 6, dtype=torch.bool), 3)
    options = {"attn_mask": mask, "need_weights": need_weights, "average_attn_weights": average}
    out, weights = attention(q, k, v, **options)
    with head_gates(holder):
        gated, same = attention(q, k, v, **options)
    assert float((out - gated).detach().abs().max()) < 1e-6
    assert (weights is None) == (same is None)
    if weights is not None:
        assert weights.shape == same.shape
        assert float((weights - same).detach().abs().max()) < 1e-6
    remove_heads(holder, np.array([True, False, True]))
    small: Any = holder["a"]
    assert [p.weight.shape for p in small.projections] == [(8, 12), (8, 5), (8, 7), (12, 8)]
    assert small(q, k, v, **options)[0].shape == out.shape


def test_unknown_attention_is_named_with_an_adapter() -> None:
    with (
        pytest.raises(ValueError, match=r"(?s)Sequential.*register_family") as caught,
        head_gates(nn.Sequential(nn.Linear(2, 2))),
    ):
        pass
    assert "def reader(model)" in str(caught.value)


def brute_slopes(model: nn.Module, batch: Batch, per_token: bool, step: float = 1e-3) -> Any:
    """Central differences of each example's loss in each gate, (examples, tokens or 1, heads)."""
    model, layers = model.double(), head_layers(model)
    x, y = batch.inputs.double(), batch.target
    tokens = 17 if per_token else 1
    out = np.zeros((len(x), tokens, sum(a.n_heads for a in layers)))
    start = 0
    with torch.no_grad(), head_gates(model) as gates:
        for k, layer in enumerate(layers):
            for h in range(layer.n_heads):
                for t in range(tokens):
                    found = []
                    for sign in (1, -1):
                        gates.set(None)
                        value = torch.ones(1, tokens, layer.n_heads, dtype=torch.float64)
                        value[0, t, h] += sign * step
                        gates.values[k] = value
                        found.append(F.cross_entropy(model(x), y, reduction="none"))
                    out[:, t, start + h] = ((found[0] - found[1]) / (2 * step)).numpy()
            start += layer.n_heads
    return out


def test_estimators_are_their_definitions_by_finite_differences() -> None:
    model, (batch, *_) = digits_model(), small_batches((4,))
    single, token = (brute_slopes(model, batch, per_token) for per_token in (False, True))
    wanted = {
        "example-abs": np.abs(single[:, 0]).mean(0),
        "token-abs": np.abs(token).sum(1).mean(0),
        "batch-abs": np.abs(single[:, 0].sum(0)) / len(single),
    }
    double = [Batch(batch.inputs.double(), batch.target)]
    for name, scores in wanted.items():
        np.testing.assert_allclose(
            head_importance(model, double, label_loss, estimator=name), scores, rtol=1e-4, atol=1e-7
        )
        layers = scores.reshape(2, 3)
        unit = (layers / np.linalg.norm(layers, axis=1, keepdims=True)).ravel()
        found = head_importance(model, double, label_loss, estimator=name, normalise=True)
        np.testing.assert_allclose(found, unit, rtol=1e-4)
    assert (wanted["batch-abs"] <= wanted["example-abs"] + 1e-12).all()
    assert (wanted["example-abs"] <= wanted["token-abs"] + 1e-12).all()
    assert not np.allclose(wanted["batch-abs"], wanted["example-abs"], rtol=0.05)


def test_batch_abs_is_example_abs_at_batches_of_one_and_gradients_do_not_pile_up() -> None:
    model, batches = digits_model(), small_batches((3, 2))
    ones = [Batch(b.inputs[i : i + 1], b.target[i : i + 1]) for b in batches for i in range(len(b.target))]
    whole = head_importance(model, batches, label_loss)
    np.testing.assert_allclose(head_importance(model, ones, label_loss, estimator="batch-abs"), whole, rtol=1e-4)
    np.testing.assert_allclose(head_importance(model, ones, label_loss), whole, rtol=1e-4)
    np.testing.assert_allclose(head_importance(model, batches, label_loss), whole, rtol=1e-6)  # a second time
    assert all(p.grad is None for p in model.parameters())


def test_scores_at_a_selection_are_slopes_there() -> None:
    model, batches = digits_model(), small_batches()
    loss = HeadLoss(model, batches, label_loss)
    kept = np.array([True, False, True, True, True, False])
    assert not np.allclose(loss.scores(kept), loss.scores(np.ones(6, np.bool_)), rtol=0.1)


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_kept_prefixes_change_no_loss(family: str) -> None:
    model, rng = tiny_transformer(family), np.random.default_rng(0)
    batches = [family_batch(family), Batch({"input_ids": tiny_tokens(2, 8, seed=3)}, tiny_tokens(2, 8, seed=3))]

    def mean_square(outputs: Any, ids: Any) -> Tensor:
        values = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
        out: Tensor = (values**2).mean(dim=(1, 2)) + ids.float().mean(1)
        return out

    cached, plain = (HeadLoss(model, batches, mean_square, cache_bytes=n) for n in (2**20, 0))
    layers = head_layers(model)
    for _ in range(12):
        kept = np.concatenate([np.repeat(rng.random(a.n_groups) < 0.8, a.heads_per_group) for a in layers])
        assert cached(kept) == pytest.approx(plain(kept), rel=1e-6)
        assert cached(kept) == cached(kept)
    assert cached.blocks_run < plain.blocks_run
    tiny = HeadLoss(model, batches, mean_square, cache_bytes=30_000)  # prefixes go when there is no room
    assert tiny(kept) == pytest.approx(plain(kept), rel=1e-6)
    assert tiny._bytes <= 30_000


def test_enumeration_costs_about_one_block_a_mask() -> None:
    model, batches = digits_model(3, 3), small_batches((4,))
    loss = HeadLoss(model, batches, label_loss)
    task = HeadSelection.from_loss(loss, loss.n_heads, 4)
    solution = po.solve(task)
    assert solution.solver == "enumeration"
    assert solution.status is po.Status.OPTIMAL
    tried = solution.stats["evaluations"]
    assert loss.blocks_run < 2 * 2 * tried  # the bound is computed again
    codes = ((np.arange(512)[:, None] >> np.arange(9)) & 1).astype(np.bool_)
    table = {c.tobytes(): loss(c) for c in codes}
    assert solution.objective == pytest.approx(min(table[c.tobytes()] for c in codes if c.sum() <= 4))


def test_importance_for_embeddings_has_slopes() -> None:
    model, n = tiny_transformer("bert"), 24
    inputs = {"input_ids": tiny_tokens(4, 6), "attention_mask": torch.ones(4, 6, dtype=torch.long)}
    with torch.no_grad():
        dense = sentence_embeddings(model(**inputs).last_hidden_state, inputs["attention_mask"])
    batch = Batch(inputs, (inputs["attention_mask"], dense))
    loss, whole = HeadLoss(model, [batch], embedding_loss), np.ones(n, np.bool_)
    assert loss(whole) == pytest.approx(0, abs=1e-6)
    # 1 - cos is least at the whole model: its slopes are rounding error, those of the contrastive loss are not
    flat, steep = head_importance(model, [batch], embedding_loss), loss.scores(whole)
    assert flat.max() < 1e-6
    assert steep.min() > 100 * flat.max()
    np.testing.assert_array_equal(steep, head_importance(model, [batch], contrastive_loss))
    assert loss.scores_name == "example-abs of the contrastive loss"
    close = dense @ dense.T / 0.05
    want = torch.logsumexp(close, 1) - close.diagonal()
    np.testing.assert_allclose(contrastive_loss(batch.run(model), batch.target).detach(), want, atol=1e-4)
    own = HeadLoss(model, [batch], embedding_loss, score_loss=embedding_loss)
    np.testing.assert_array_equal(own.scores(whole), flat)


def test_losses_say_what_they_miss() -> None:
    model, (batch, *_) = digits_model(), small_batches((2,))
    kept = np.ones(6, np.bool_)
    with pytest.raises(ValueError, match="labels must be given"):
        HeadLoss(model, [Batch(batch.inputs)], label_loss)(kept)
    with pytest.raises(ValueError, match="input_ids"):
        HeadLoss(tiny_transformer("llama"), [Batch({"input_ids": tiny_tokens(1, 6)})], next_token_loss)(
            np.ones(24, np.bool_)
        )
    with pytest.raises(ValueError, match=r"kept must have shape \(6,\)"):
        HeadLoss(model, [batch], label_loss)(np.ones(5, np.bool_))
    with pytest.raises(ValueError, match="one number for each example"):
        HeadLoss(model, [batch], lambda out, y: out.sum())(kept)
    with pytest.raises(ValueError, match="estimator must be one of"):
        head_importance(model, [batch], label_loss, estimator="abs")
    with pytest.raises(ValueError, match="batches must hold at least one"):
        prune_heads(model, kept, repair=True)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_repair_is_the_least_squares_solution(family: str) -> None:
    model, batch = tiny_transformer(family), family_batch(family)
    kept = np.ones(sum(a.n_heads for a in head_layers(model)), np.bool_)
    first = head_layers(model)[0]
    kept[: 2 * first.heads_per_group] = False  # only the first layer loses heads
    seen: list[Tensor] = []

    def take(context: Tensor) -> Tensor:
        seen.append(context.detach().clone())
        return context

    undo = first.attach(take)
    with torch.no_grad():
        batch.run(model)
    undo()
    rows = seen[0].reshape(-1, seen[0].shape[-1])[batch.inputs["attention_mask"].reshape(-1).bool()].double().numpy()
    assert first.attention is not None
    projection: Any = first.attention.projection
    weight = projection.weight.detach().double().numpy()
    weight = weight.T if family == "gpt2" else weight
    outputs = rows @ weight.T
    columns = np.repeat(kept[: first.n_heads], first.head_dim)
    design = rows[:, columns]
    if projection.bias is not None:
        design = np.hstack([design, np.ones((len(rows), 1))])
    best, *_ = np.linalg.lstsq(design, outputs, rcond=None)
    least = float(((outputs - design @ best) ** 2).sum())
    small = prune_heads(model, kept, batches=[batch], repair=True, damping=1e-9)
    new: Any = head_layers(small.model)[0].attention
    found = new.projection.weight.detach().double().numpy()
    found = found.T if family == "gpt2" else found
    shift = 0.0 if projection.bias is None else (new.projection.bias - projection.bias).detach().double().numpy()
    reached = float(((outputs - rows[:, columns] @ found.T - shift) ** 2).sum())
    assert reached <= least * (1 + 1e-3) + 1e-6
    assert reached < 0.9 * float(((outputs - rows[:, columns] @ weight.T[columns]) ** 2).sum())
    assert "with the repair" in small.notes[0]


def test_repair_without_heads_leaves_the_mean() -> None:
    model, batch = tiny_transformer("bert"), family_batch("bert")
    layers = head_layers(model)
    kept = np.ones(sum(a.n_heads for a in layers), np.bool_)
    kept[: layers[0].n_heads] = False
    outputs: list[Tensor] = []
    assert layers[0].attention is not None
    handle = layers[0].attention.projection.register_forward_hook(lambda m, a, out: outputs.append(out))
    with torch.no_grad():
        batch.run(model)
    handle.remove()
    mean = outputs[0][batch.inputs["attention_mask"].bool()].mean(0)
    small = prune_heads(model, kept, batches=[batch], repair=True)
    new: Any = head_layers(small.model)[0].attention
    assert float((new.projection.bias - mean).detach().abs().max()) < 1e-5


@pytest.mark.parametrize(("build", "shape"), [(digits_model, (2, 64)), (classifier, (2, 5, 16))])
def test_state_dicts_of_other_kinds_of_models_fit(build: Any, shape: tuple[int, ...]) -> None:
    model = build()
    kept = random_kept(model, 2)
    small, again = prune_heads(model, kept).model, build()
    remove_heads(again, kept)
    again.load_state_dict(small.state_dict())
    x = torch.randn(shape)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))


@pytest.mark.parametrize("what", ["bert", "llama", "digits"])
def test_onnx_runtime_agrees(what: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = digits_model() if what == "digits" else tiny_transformer(what)
    batch = small_batches((3,))[0] if what == "digits" else family_batch(what)
    kept = random_kept(model, 2)
    kept[: head_layers(model)[0].n_heads] = False
    small = prune_heads(model, kept).model
    export_onnx(small, batch, tmp_path / "m.onnx")
    assert not any(m.training for m in small.modules())  # the exporter puts back the mode of what it is given
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    named = batch.inputs if what != "digits" else {"input": batch.inputs}
    out = session.run(None, {k: v.numpy() for k, v in named.items()})[0]
    with torch.no_grad():
        assert float(np.abs(out - outputs_of(small, batch).numpy()).max()) < 1e-4


def test_head_loss_meets_the_task() -> None:
    model = digits_model()
    loss = HeadLoss(model, small_batches(), label_loss, estimator="token-abs", normalise=True)
    task = HeadSelection.from_loss(loss, loss.n_heads, 3, at_least_one_per_layer=True)
    answer = po.solve(task, "head-importance")
    assert answer.stats["score"] == "token-abs with per-layer l2 norms"
    scores = loss.scores(np.ones(6, np.bool_))
    order = np.argsort(-scores)
    assert set(np.flatnonzero(answer.value)) >= {int(order[0])}
    best = po.solve(task)
    assert best.objective <= answer.objective + 1e-12
    milliseconds = po.Budget("latency_ms", 2.0, 4.0)
    timed = HeadSelection(loss, loss.n_heads, milliseconds, cost=np.array([0.3] * 3 + [0.6] * 3), fixed=1.0)
    answer = po.solve(timed, "greedy")
    assert timed.used(answer.value) <= 2.0 + 1e-9


def test_the_digits_loss_is_the_cross_entropy_of_the_first_400_pictures() -> None:
    model, (pictures, labels, *_) = digits_model(), digits_data()
    with torch.no_grad():
        wanted = float(F.cross_entropy(model(pictures[:400]), labels[:400]))
    assert digits_loss(model)(np.ones(6, np.bool_)) == pytest.approx(wanted, rel=1e-5)
