"""What prunopt takes for granted about transformers: each of these fails when a release of the library changes it."""

from __future__ import annotations

import gc
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from prunopt.networks import load, prune_transformer  # noqa: E402
from prunopt.networks.transformers.calibration import Activations, as_calibration  # noqa: E402
from prunopt.networks.transformers.families import blocks, family_of  # noqa: E402
from prunopt.networks.transformers.tiny_models import GPT2, SHARED, VOCABULARY, outputs, tiny_tokens, tiny_transformer  # noqa: E402

WINDOW = 8  # of sliding attention; calibration windows are three times as long
GROUPED: dict[str, Any] = SHARED | {"num_key_value_heads": 4, "head_dim": 4, "initializer_range": 0.2}
PLAIN: dict[str, Any] = SHARED | {"initializer_range": 0.2}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
SLIDING: dict[str, Any] = GROUPED | {"sliding_window": WINDOW, "layer_types": MIXED}
STOCK: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", GROUPED | {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SLIDING | {"use_sliding_window": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", GROUPED),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", GROUPED | {"no_rope_layers": [1, 0, 1]}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", GROUPED | {"residual_multiplier": 0.3}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", GROUPED),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", SLIDING | {"query_pre_attn_scalar": 4}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", SLIDING | {"query_pre_attn_scalar": 4}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2 | {"initializer_range": 0.2}),
    "bert": ("BertConfig", "BertModel", PLAIN),
    "roberta": ("RobertaConfig", "RobertaModel", PLAIN),
}


def stock(name: str) -> Any:
    config, kind, options = STOCK[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()


def windows(padded: bool) -> dict[str, Any]:
    ids = tiny_tokens(3, 3 * WINDOW)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 17:] = 0
        mask[2, :5] = 0  # on the left, as tokenizers of decoders pad
    return {"input_ids": ids, "attention_mask": mask}


def caches(root: Any) -> list[Any]:
    """Return the caches that an object keeps alive."""
    seen, waiting = {id(root)}, [root]
    found = []
    while waiting:
        value = waiting.pop()
        found += [value] if issubclass(type(value), transformers.Cache) else []
        for part in gc.get_referents(value):
            if id(part) not in seen and not isinstance(part, type | ModuleType | FunctionType):
                seen.add(id(part))
                waiting.append(part)
    return found


def through_the_model(model: Any, given: dict[str, Any]) -> list[list[Any]]:
    """Return what enters each block at each window, and what the last one puts out, from passes of the whole model."""
    found, seen = blocks(model), []
    for k in range(len(given["input_ids"])):
        kept: list[Any] = []
        handles = [
            b.module.register_forward_pre_hook(
                lambda _, args, kwargs, kept=kept: kept.append((args[0] if args else kwargs["hidden_states"]).clone()),
                with_kwargs=True,
            )
            for b in found
        ]
        handles.append(
            found[-1].module.register_forward_hook(
                lambda _, args, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
            )
        )
        with torch.no_grad():
            model(**{n: v[k : k + 1] for n, v in given.items()})
        for handle in handles:
            handle.remove()
        seen.append([x[0] for x in kept])
    return seen


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", STOCK)
def test_blocks_run_by_themselves_do_what_they_do_in_the_model(name: str, padded: bool) -> None:
    model, given = stock(name), windows(padded)
    real, found = through_the_model(model, given), blocks(model)
    stream = Activations(model, found, as_calibration(given))
    assert not caches(stream), "a key-value cache is kept: it grows with every pass"
    for k, block in enumerate([*found, None]):
        for w, seen in enumerate(real):
            torch.testing.assert_close(stream.window(w), seen[k], rtol=1e-5, atol=1e-5)
        if block is not None:
            stream.hessians(block, block.layers)  # an earlier pass over a window leaves nothing behind
            stream.advance(block)


@pytest.mark.parametrize("name", STOCK)
def test_stock_code_loads_what_is_saved(name: str, tmp_path: Path) -> None:
    model, ids = stock(name), windows(False)["input_ids"]
    result = prune_transformer(model, ids, sparsity=0.2)
    assert result.stock
    assert result.removed
    result.save(tmp_path / "out")
    expected = outputs(result.model, ids)
    again = type(model).from_pretrained(tmp_path / "out", local_files_only=True).eval()
    torch.testing.assert_close(outputs(again, ids), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs(load(tmp_path / "out"), ids), expected)


@pytest.mark.parametrize(
    "options",
    [{"sparsity": 0.3, "units": ("heads", "ffn")}, {"pattern": "2:4"}],
    ids=["units", "2:4"],
)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_the_weights_are_those_of_a_model_that_makes_no_cache(options: dict[str, Any], padded: bool) -> None:
    found = []
    for caching in (True, False):
        model: Any = tiny_transformer()
        model.config.use_cache = caching
        found.append(prune_transformer(model, windows(padded), **options).model)
        assert model.config.use_cache is caching
    assert all(torch.equal(a, b) for a, b in zip(found[0].parameters(), found[1].parameters(), strict=True))


class Attending(torch.nn.Module):  # type: ignore[name-defined, misc]
    """A block with one head, which appends to whatever cache it finds in ``foo``."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k, self.proj = k, torch.nn.Linear(6, 6)

    def forward(self, x: Any, foo: Any = None, scale: float = 1.0) -> Any:
        states = self.proj(x)[:, None]
        while isinstance(foo, tuple | dict):
            foo = foo["kv"] if isinstance(foo, dict) else foo[0]
        if foo is not None:
            states, _ = foo.update(states, states, self.k)
        return x + scale * torch.softmax(x @ states[:, 0].mT, -1) @ states[:, 0]


class Odd(torch.nn.Module):  # type: ignore[name-defined, misc]
    """A model without a configuration, which always makes a cache and passes it under an odd name."""

    def __init__(self, wrap: Any = lambda cache: cache, by_name: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.wrap, self.by_name = torch.nn.Embedding(VOCABULARY, 6), wrap, by_name
        self.layers = torch.nn.ModuleList(Attending(k) for k in range(3))

    def forward(self, input_ids: Any) -> Any:
        x, cache = self.embed(input_ids), self.wrap(transformers.DynamicCache())
        for layer in self.layers:
            x = layer(x, foo=cache) if self.by_name else layer(x, cache)
        return x


def odd_blocks(model: Any) -> list[Any]:
    from prunopt.networks.transformers.families import Block

    return [Block(f"layers.{k}", m, None, None, (("proj",),)) for k, m in enumerate(model.layers)]


@pytest.mark.parametrize("by_name", [True, False], ids=["named", "positional"])
@pytest.mark.parametrize(
    "wrap", [lambda c: c, lambda c: (c, None), lambda c: {"kv": (c,)}], ids=["bare", "in a tuple", "in a dict"]
)
def test_a_cache_is_dropped_by_its_type_whatever_its_name(wrap: Any, by_name: bool) -> None:
    model, ids = Odd(wrap, by_name).eval(), tiny_tokens(2, 9)
    with torch.no_grad():
        expected = model(ids)
    stream = Activations(model, odd_blocks(model), as_calibration(ids))
    assert not caches(stream)
    for block in odd_blocks(model):
        stream.hessians(block, ["proj"])
        stream.advance(block)
    torch.testing.assert_close(torch.stack([stream.window(k) for k in range(2)]), expected)


class Wrapped(torch.nn.Module):  # type: ignore[name-defined, misc]
    """Its forward has no argument for caching, its configuration has."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids: Any) -> Any:
        return self.inner(input_ids=input_ids)


@pytest.mark.parametrize("wrap", [lambda m: m, Wrapped], ids=["by argument", "by configuration"])
def test_models_are_asked_for_no_cache(wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, ids = stock("llama"), tiny_tokens(2)
    model, made = wrap(inner), []
    make = transformers.DynamicCache.__init__

    def counted(*args: Any, **options: Any) -> None:
        made.append(1)
        make(*args, **options)

    monkeypatch.setattr(transformers.DynamicCache, "__init__", counted)
    with torch.no_grad():
        model(input_ids=ids)
    assert made.pop(), "by itself it makes one"
    Activations(model, blocks(inner), as_calibration(ids))
    assert not made
    assert model.config.use_cache is True


class Remembers(Attending):
    def forward(self, x: Any, foo: Any = None, scale: float = 1.0) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x, None, float(self.calls))


class Scaled(Odd):
    def forward(self, input_ids: Any) -> Any:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(2 * x)
        return x


class Handing(Odd):
    """What the first block puts out is an argument of the others."""

    def forward(self, input_ids: Any) -> Any:
        x = self.embed(input_ids)
        scale = 1.0
        for layer in self.layers:
            x = layer(x, None, scale)
            scale = x.mean() if isinstance(scale, float) else scale
        return x


class Twice(Odd):
    def forward(self, input_ids: Any) -> Any:
        return self.layers[1](self.layers[0](self.layers[0](self.embed(input_ids))))


@pytest.mark.parametrize(
    ("kind", "layer", "named"),
    [
        (Odd, Remembers, r"layers\.0 must put out by itself .* remembers earlier calls; .*register_family"),
        (Scaled, Attending, r"layers\.1 must be given what the block before it puts out"),
        (Handing, Attending, r"layers\.1 must put out by itself .* depend on earlier blocks"),
        (
            Twice,
            Attending,
            r"run each of its blocks once, in their order, got Twice, which runs layers\.0, layers\.0, layers\.1",
        ),
    ],
)
def test_blocks_that_cannot_run_by_themselves_are_named(kind: Any, layer: Any, named: str) -> None:
    model = kind()
    model.layers = torch.nn.ModuleList(layer(k) for k in range(3))
    with pytest.raises(ValueError, match=named):
        Activations(model.eval(), odd_blocks(model), as_calibration(tiny_tokens(2, 9)))


def test_in_training_mode_dropout_stays_and_nothing_is_compared() -> None:
    model: Any = stock("gpt2")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    stream = Activations(model.train(), blocks(model), as_calibration(tiny_tokens(2)))
    first, again = (next(stream.run(blocks(model)[0]))[1]() for _ in range(2))
    assert not torch.equal(first, again)
    assert model.training


def test_a_first_block_stands_for_all_and_others_are_refused() -> None:
    model, other = tiny_transformer(), tiny_transformer("gpt2")
    calibration = as_calibration(tiny_tokens(2))
    whole, first = (Activations(model, f, calibration) for f in (blocks(model), blocks(model)[0]))
    for block in blocks(model):
        for stream in (whole, first):
            stream.advance(block)
    np.testing.assert_array_equal(whole.window(1), first.window(1))
    with pytest.raises(ValueError, match=r"got 'transformer\.h\.0'; its arguments were not captured"):
        whole.advance(blocks(other)[0])


@pytest.mark.parametrize("name", STOCK)
def test_families_are_read(name: str) -> None:
    model = stock(name)
    assert family_of(model) == {"gpt2": "gpt2", "bert": "bert", "roberta": "bert"}.get(name, "llama")
