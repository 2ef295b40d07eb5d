"""Models of pictures, of a source and a target, of speech, with experts: what they are calibrated on and refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.commands.calibration_sources import sources_of  # noqa: E402
from prunopt.networks import PruneOptions, load, prune_transformer  # noqa: E402
from prunopt.networks.heads import head_layers  # noqa: E402
from prunopt.networks.transformers.block_arguments import output_of  # noqa: E402
from prunopt.networks.transformers.calibration import Activations, as_calibration  # noqa: E402
from prunopt.networks.transformers.calibration_inputs import OWN_OUTPUT, SAME_TEXT, for_model  # noqa: E402
from prunopt.networks.transformers.expert_pruning import expert_hessian, identity_slices, neurons_of, routed_tokens  # noqa: E402
from prunopt.networks.transformers.families import blocks  # noqa: E402
from prunopt.networks.transformers.verification import verify_folder  # noqa: E402
from tests.networks.transformers.tiny_families import CASES, far, inputs, values  # noqa: E402

PAIRS = {"input_ids": [[5, 6, 7, 8]] * 3, "labels": [[9, 10, 11, -100]] * 3}


def model_of(name: str) -> Any:
    return next(case for case in CASES if case.name == name).model()


def test_pictures_of_another_size_or_kind_are_refused_in_one_line() -> None:
    vit = model_of("ViT")
    with pytest.raises(ValueError, match=r"calibration must be what ViTModel can be run on, got pixel_values of shape"):
        prune_transformer(vit, torch.zeros(3, 3, 20, 20), sparsity=0.2)
    with pytest.raises(ValueError, match="calibration must hold pixel_values, which ViTModel takes, got 'input_ids'"):
        prune_transformer(vit, torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="calibration must be finite"):
        prune_transformer(vit, torch.full((2, 3, 16, 16), torch.nan))
    with pytest.raises(ValueError, match="calibration must hold input_ids"):
        prune_transformer(model_of("Llama 1"), torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"allocation must be uniform, log, a file or numbers .*, got 'owl'"):
        prune_transformer(vit, torch.zeros(2, 3, 16, 16), allocation="owl")


def test_a_model_of_pictures_is_scored_by_its_outputs_and_verified(tmp_path: Path) -> None:
    vit, pictures = model_of("ViT"), inputs(model_of("ViT"), 6)["pixel_values"]
    options = PruneOptions(evaluation={"calibration": pictures[4:]})
    result = prune_transformer(vit, pictures[:4], sparsity=0.2, units=("heads", "ffn"), options=options)
    assert 0 < result.evaluation["output_error"]["calibration"] < 1
    assert result.notes[0] == "calibrated on 4 pixel_values, 68 places in all"
    result.save(tmp_path / "out")
    checks = verify_folder(tmp_path / "out", vit, pictures[:4])
    assert f"{len(result.report)} layers recomputed" in checks["errors"]


def test_the_decoder_hears_the_pruned_encoder(tmp_path: Path) -> None:
    model: Any = model_of("Marian")
    model.set_attn_implementation("sdpa")  # as the folder is loaded: a mask is that of an implementation
    given = inputs(model, 4)
    options = PruneOptions(evaluation={"calibration": inputs(model, 2)})
    result = prune_transformer(model, given, sparsity=0.2, units=("heads", "ffn"), options=options)
    names = [row.name for row in result.report]
    assert any("encoder_attn" in name for name in names)
    assert result.evaluation["perplexity"]["calibration"]["tokens"] == 22
    pruned, found = result.model, blocks(result.model)
    own: list[Any] = []
    hooks = [b.module.register_forward_hook(lambda _m, _a, out: own.append(output_of(out))) for b in found]
    first = {name: tensor[:1] for name, tensor in given.items()}
    values(pruned, first)
    for hook in hooks:
        hook.remove()
    stream = Activations(pruned, found, as_calibration(given))
    for block, out in zip(found, own, strict=True):
        stream.advance(block)
        assert far(stream.window(0), out[0]) < 1e-6
    result.save(tmp_path / "out")
    again: Any = load(tmp_path / "out")
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    cached, plain = (again.generate(first["input_ids"], use_cache=c, **settings) for c in (True, False))
    assert torch.equal(cached, plain)
    checks = verify_folder(tmp_path / "out", model, given)
    assert f"{len(result.report)} layers recomputed" in checks["errors"]


def test_a_killed_run_of_two_stacks_ends_with_the_same_weights(tmp_path: Path) -> None:
    model = model_of("Marian")
    asked: dict[str, Any] = {"sparsity": 0.2, "units": ("heads", "ffn")}
    whole = prune_transformer(model, PAIRS, **asked)

    def stop(done: int, of: int, row: Any) -> None:
        if done == of - 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_transformer(model, PAIRS, **asked, options=PruneOptions(progress=stop), resume_dir=tmp_path / "w")
    again = prune_transformer(model, PAIRS, **asked, resume_dir=tmp_path / "w")
    for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_targets_begin_with_the_decoders_own_token_and_padding_does_not_count() -> None:
    tokens, notes = for_model(as_calibration(PAIRS), model_of("Marian"))
    assert tokens.target is not None
    assert tokens.target[0].tolist() == [1, 9, 10, 11]
    assert tokens.row_weights(target=True)[0].tolist() == [1, 1, 1, 0]
    assert not notes
    alone, notes = for_model(as_calibration({"input_ids": [[5, 6, 7]]}), model_of("Marian"))
    assert notes == (SAME_TEXT,)
    assert alone.target is not None
    assert alone.target.tolist() == [[1, 5, 6]]


def test_speech_alone_is_calibrated_on_what_the_model_says() -> None:
    model = model_of("Whisper")
    features = inputs(model)["input_features"]
    result = prune_transformer(model, features, pattern="2:4", method="wanda")
    assert OWN_OUTPUT in result.notes
    tokens, _ = for_model(as_calibration(features), model)
    assert tokens.target is not None
    logits = model(input_features=features[:1], decoder_input_ids=tokens.target[:1]).logits
    assert torch.equal(logits[0, :-1].argmax(-1), tokens.target[0, 1:])


@pytest.mark.parametrize(
    ("name", "given", "options", "named"),
    [
        ("Marian", PAIRS, {"repair": "blocks"}, "repair must be 'outputs' or left out, got blocks, for an encoder"),
        ("Marian", PAIRS, {"pattern": "2:4", "method": "maskllm"}, "method must be one that solves layers"),
        ("Llama 1", PAIRS, {}, "calibration must hold no targets for LlamaForCausalLM"),
        ("Marian", {"input_ids": [[5, 6]], "labels": [[5], [6]]}, {}, r"labels of the calibration must be token ids"),
        ("Marian", {"words": [[5]]}, {}, "calibration must hold input_ids or one of pixel_values, input_features"),
        ("Mixtral", [[5, 6, 7, 8]], {"units": "experts", "sparsity": 0.9}, "of 4 experts 2 are used for each token"),
        ("Mixtral", [[5, 6, 7, 8]], {"units": ("experts", "ffn")}, "units must be 'experts' alone"),
        ("Llama 1", [[5, 6, 7, 8]], {"units": "experts"}, "units must leave out 'experts'"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused(name: str, given: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        prune_transformer(model_of(name), given, **options)


@pytest.mark.parametrize("name", ["Mixtral", "GPT-OSS", "DeepSeek-V3"])
def test_neurons_and_hessians_of_experts_are_those_of_the_module(name: str) -> None:
    """What neurons give makes up what experts put out; of tokens routed elsewhere nothing is counted."""
    model = model_of(name).requires_grad_(False)
    given = as_calibration(inputs(model))
    found = blocks(model)
    block = next(b for b in found if b.experts is not None)
    experts = block.experts
    assert experts is not None
    stream = Activations(model, found, given)
    for before in found[: found.index(block)]:
        stream.advance(before)
    calls = routed_tokens(stream, block, experts)
    call, slices = calls[0], identity_slices(experts)
    whole = experts.module(call.hidden, call.index, call.weight)
    added = torch.zeros_like(whole)
    bias = getattr(experts.module, "down_proj_bias", torch.zeros(experts.count, whole.shape[1]))
    energy = np.zeros((experts.width, experts.width))
    for expert in range(experts.count):
        at, slot = torch.where(call.index == expert)
        out = neurons_of(experts, slices, call.hidden[at], expert)
        scale = call.weight[at, slot][:, None]
        added.index_add_(0, at, scale * (out @ experts.down[expert].T + bias[expert]))
    assert far(added, whole) < 1e-5
    hessian, routed = expert_hessian(experts, slices, calls, given.row_weights(), 1)
    for call in calls:
        at, slot = torch.where(call.index == 1)
        rows = (
            (neurons_of(experts, slices, call.hidden[at], 1) * call.weight[at, slot][:, None]).double().detach().numpy()
        )
        energy += rows.T @ rows / given.n_tokens
    assert routed
    np.testing.assert_allclose(hessian, energy, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("units", ["experts", "ffn"])
def test_experts_are_resumed_and_their_errors_are_those_of_the_layer(units: str, tmp_path: Path) -> None:
    model = model_of("DeepSeek-V3")
    given = inputs(model, 3)["input_ids"]
    whole = prune_transformer(model, given, units=units, sparsity=0.1)

    def stop(done: int, of: int, row: Any) -> None:
        assert done <= of
        if "experts" in row.name:
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"units": units, "sparsity": 0.1, "resume_dir": tmp_path / "w"}
    with pytest.raises(KeyboardInterrupt):
        prune_transformer(model, given, **asked, options=PruneOptions(progress=stop))
    again = prune_transformer(model, given, **asked)
    for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    row = next(r for r in whole.report if "expert" in r.unit)
    assert 0 < row.error < 1
    assert whole.removed == sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in whole.model.parameters()
    ) - (32 * (row.total - row.kept) if units == "experts" else 0)
    whole.save(tmp_path / "out")
    assert "experts are not" in verify_folder(tmp_path / "out", model, given)["errors"]


def test_heads_that_see_the_encoder_are_heads() -> None:
    names = [layer.name for layer in head_layers(model_of("Marian"))]
    assert "model.decoder.layers.0.encoder_attn" in names
    assert len(names) == 6


class Words:
    """A tokenizer of single letters."""

    def __call__(self, text: Any = None, text_target: Any = None, **_: Any) -> Any:
        texts = text if text is not None else text_target
        length = max(len(t) for t in texts)
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        for k, t in enumerate(texts):
            ids[k, : len(t)] = torch.tensor([ord(c) % 90 + 3 for c in t])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_pairs_arrays_and_pictures_are_read_from_files(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    marian, vit, whisper = (model_of(name) for name in ("Marian", "ViT", "Whisper"))
    asked: dict[str, Any] = {"length": 8, "count": 4, "seed": 0}
    (tmp_path / "pairs.tsv").write_text("".join(f"source {k}\ttarget\n" for k in range(8)))
    used, scored = sources_of(marian, Words(), [str(tmp_path / "pairs.tsv")], **asked)
    assert len(used["input_ids"]) == 4
    assert len(scored["calibration"]["labels"]) == 4
    (tmp_path / "bad.tsv").write_text("no target\n")
    with pytest.raises(ValueError, match=r"hold a source, a tab and a target in each line, got line 1"):
        sources_of(marian, Words(), [str(tmp_path / "bad.tsv")], **asked)
    for k in range(8):
        image.new("RGB", (20, 24), (30 * k, 10, 20)).save(tmp_path / f"{k}.png")
    pictures, held = sources_of(vit, None, [str(tmp_path)], **asked)
    assert tuple(pictures.shape) == (4, 3, 16, 16)
    assert tuple(held["calibration"].shape) == (4, 3, 16, 16)
    with pytest.raises(ValueError, match="--calibration must hold input_ids, which MarianMTModel takes"):
        sources_of(marian, None, [str(tmp_path)], **asked)
    with pytest.raises(ValueError, match="--calibration must hold pixel_values, which the model takes"):
        sources_of(vit, None, [str(tmp_path / "text.txt")], **asked)
    np.save(tmp_path / "speech.npy", inputs(whisper, 6)["input_features"].numpy())
    features, _ = sources_of(whisper, None, [str(tmp_path / "speech.npy")], **asked)
    assert tuple(features.shape) == (4, 8, 32)
    (tmp_path / "wrong.npy").write_text("text")
    with pytest.raises(ValueError, match=r"--calibration must be a \.npy file of numbers"):
        sources_of(whisper, None, [str(tmp_path / "wrong.npy")], **asked)
