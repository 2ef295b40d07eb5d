"""A model that is pruned block by block out of its shards is the one that is pruned in memory, bit by bit."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from prunopt.networks import PruneOptions, load, prune_transformer, read_model, verify_folder
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import blocks
from prunopt.networks.transformers.streaming import StreamedModel
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer, write_tiny_model

BOTH: dict[str, Any] = {"sparsity": 0.3, "units": ("heads", "ffn")}
TEXTS = {"calibration": tiny_tokens(3, 32, seed=5), "second_text": tiny_tokens(2, 24, seed=6)}


def shards(folder: Path, family: str = "llama", dtype: Any = None) -> Path:
    """Write a tiny model in several files, with what lies beside weights."""
    write_tiny_model(folder, family)
    (folder / "model.safetensors").unlink()
    model: Any = tiny_transformer(family)
    model.to(dtype or torch.float32).save_pretrained(folder, max_shard_size="20KB")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", BOTH), ("gpt2", BOTH), ("bert", {"pattern": "2:4"}), ("qwen3", {"pattern": "2:4", "method": "wanda"})],
)
def test_streamed_is_in_memory(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = shards(tmp_path / "tiny", family, torch.bfloat16 if family == "llama" else None)
    model, _ = read_model(folder)
    asked = PruneOptions(evaluation=TEXTS)
    whole = prune_transformer(model, tiny_tokens(8), options=asked, **options)
    whole.save(tmp_path / "whole", like=folder)
    streamed = prune_transformer(folder, tiny_tokens(8), options=asked, out=tmp_path / "streamed", **options)
    assert streamed.digests == whole.digests
    assert streamed.options == whole.options
    assert streamed.stock == whole.stock
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "streamed").iterdir())
    for name in names:
        if name not in ("README.md", "prunopt.json"):  # these tell the speed, and seconds
            both = [(tmp_path / kind / name).read_bytes() for kind in ("whole", "streamed")]
            assert both[0] == both[1], name
    before = {name for name in whole.evaluation if name != "tokens_per_second"}
    assert {name: streamed.evaluation[name] for name in before} == {name: whole.evaluation[name] for name in before}
    assert all(p.is_meta for p in streamed.model.parameters())
    assert streamed.folder == tmp_path / "streamed"
    assert "errors" in verify_folder(tmp_path / "streamed", read_model(folder)[0], tiny_tokens(8))


def test_files_beside_the_weights_are_kept(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = shards(tmp_path / "tiny", dtype=torch.bfloat16)
    prune_transformer(folder, tiny_tokens(8), pattern="2:4", out=tmp_path / "out")
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    before, after = (json.loads((p / "model.safetensors.index.json").read_text()) for p in (folder, tmp_path / "out"))
    assert after["weight_map"] == before["weight_map"]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == 2
    plain = tmp_path / "plain"
    plain.touch()
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").iterdir()}
    assert modes == {stat.S_IMODE(plain.stat().st_mode)}
    assert 'license: "apache-2.0"' in (tmp_path / "out" / "README.md").read_text()
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    assert stock.dtype == torch.bfloat16
    ours = load(tmp_path / "out")
    ids = tiny_tokens(2)
    with torch.no_grad():
        assert torch.equal(stock(input_ids=ids).logits, ours(input_ids=ids).logits)


def test_a_block_at_a_time_is_in_memory(tmp_path: Path) -> None:
    folder = shards(tmp_path / "tiny")
    seen: list[list[str]] = []
    streamed = StreamedModel(folder, tmp_path / "out")
    loading = StreamedModel.block

    def look(done: int, of: int, row: Any) -> None:
        held[:] = [b.name for b in blocks(models[0]) if any(not p.is_meta for p in b.module.parameters())]
        seen.append(list(held))
        outside = [n for n, p in models[0].named_parameters() if not p.is_meta and not n.startswith(held[0])]
        assert not outside  # the embedding has gone

    held: list[str] = []
    models: list[Any] = []

    def block(self: StreamedModel, one: Any) -> Any:
        models[:] = [self.model]
        return loading(self, one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamedModel, "block", block)
        prune_transformer(
            folder, tiny_tokens(4), options=PruneOptions(progress=look), out=tmp_path / "out", pattern="2:4"
        )
    assert [s for s in seen if len(s) != 1] == []
    assert sorted({s[0] for s in seen}) == [b.name for b in streamed.blocks]


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    folder = shards(tmp_path / "tiny")

    def stop(done: int, of: int, row: Any) -> None:
        if done == 3:
            raise KeyboardInterrupt

    run: dict[str, Any] = BOTH | {"resume_dir": tmp_path / "work"}
    with pytest.raises(KeyboardInterrupt):
        prune_transformer(folder, tiny_tokens(8), options=PruneOptions(progress=stop), out=tmp_path / "a", **run)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny", "work"]  # nothing half done
    prune_transformer(folder, tiny_tokens(8), out=tmp_path / "a", **run)
    prune_transformer(folder, tiny_tokens(8), out=tmp_path / "b", **BOTH)
    for file in (tmp_path / "a").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "out must name a folder, got None; a model that is streamed is written as it is read"),
        ({"out": "tiny"}, "out must be another folder than the model's"),
        ({"out": "out", "pattern": "2:4", "method": "maskllm"}, "method must be one that prunes block by block"),
        ({"out": "out", "allocation": "owl"}, "allocation must be uniform, log, a file or numbers"),
    ],
)
def test_what_needs_the_whole_model_is_refused(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = shards(tmp_path / "tiny")
    if "out" in options:
        options = options | {"out": tmp_path / options["out"]}
    with pytest.raises(ValueError, match=named):
        prune_transformer(folder, tiny_tokens(4), **options)


def test_models_whose_weights_are_elsewhere_are_refused(tmp_path: Path) -> None:
    model = tiny_transformer()
    with pytest.raises(ValueError, match="out must be left out with a model in memory"):
        prune_transformer(model, tiny_tokens(4), out=tmp_path / "out")
    model.get_submodule("model.layers.1.mlp").to("meta")  # as accelerate leaves offloaded ones
    with pytest.raises(
        ValueError, match=r"have its weights in memory, got LlamaForCausalLM with 3 tensors .* to stream"
    ):
        prune_transformer(model, tiny_tokens(4))


def test_arguments_that_depend_on_earlier_blocks_are_refused(tmp_path: Path) -> None:
    source = StreamedModel(shards(tmp_path / "tiny"), tmp_path / "out")
    tokens = as_calibration(tiny_tokens(2))
    with source.around():
        Activations(source.model, source.blocks, tokens)

    def mixed(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"attention_mask": args[0].mean()}

    source.blocks[1].module.register_forward_pre_hook(mixed, with_kwargs=True)
    with (
        source.around(),
        pytest.raises(ValueError, match=r"arguments of model.layers.1 must be those of the tokens alone"),
    ):
        Activations(source.model, source.blocks, tokens)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    folder = shards(tmp_path / "tiny")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    gone = index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    kept = (folder / gone).read_bytes()
    (folder / gone).unlink()
    with pytest.raises(ValueError, match=f"must hold {gone}, got none; its index names it"):
        StreamedModel(folder, tmp_path / "out")
    (folder / gone).write_bytes(kept[:50])
    with pytest.raises(ValueError, match="must be a whole file of safetensors"):
        StreamedModel(folder, tmp_path / "out")
    (folder / gone).write_bytes(kept)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ValueError, match=r"none named model.layers.3.*; leave streaming out"):
        StreamedModel(folder, tmp_path / "out")
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 63}))
    with pytest.raises(ValueError, match=r"mlp.* must have shape \(63, 32\), got \(64, 32\)"):
        prune_transformer(folder, tiny_tokens(4), out=tmp_path / "out")
