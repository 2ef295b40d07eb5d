"""The model card, uploads by a stand-in for the Hub, and names that the Hub's cache holds."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("yaml")


from prunopt.networks import PruneOptions, load, prune_transformer, read_model
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer, write_tiny_model

TEXTS = {"calibration": tiny_tokens(3, 32, seed=5), "second_text": tiny_tokens(2, 24, seed=6)}


def front(card: str) -> dict[str, Any]:
    return dict(import_module("yaml").safe_load(card.split("---\n")[1]))


def test_the_card_says_what_was_done_and_whose_licence_holds(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "base")
    about = "---\nlicense: cc-by-sa-4.0\nbase_model: someone/else\ntags:\n- x\n---\n# Base\n"
    (tmp_path / "base" / "README.md").write_text(about)
    options = PruneOptions(evaluation=TEXTS, free_shapes=True)
    result = prune_transformer(tiny_transformer(), tiny_tokens(8), sparsity=0.3, options=options)
    result.save(tmp_path / "out", like=tmp_path / "base")
    card = (tmp_path / "out" / "README.md").read_text()
    head = front(card)
    assert head["license"] == "cc-by-sa-4.0"
    assert head["base_model"] == "someone/else"
    assert {"prunopt", "pruning"} <= set(head["tags"])
    assert f"{result.removed:,} of {result.total:,}" in card
    assert "whole ffn" in card
    after = result.evaluation["perplexity"]["second_text"]["after"]
    assert f"| {after:.2f} |" in card
    assert "`from_pretrained` of transformers with `trust_remote_code=True` (blocks differ in shape), or" in card
    assert "License:** that of the base model (cc-by-sa-4.0)" in card


def test_without_a_base_no_licence_is_claimed(tmp_path: Path) -> None:
    prune_transformer(tiny_transformer(), tiny_tokens(8), pattern="2:4").save(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license" not in front(card)
    assert "`from_pretrained` of transformers, or" in card
    hostile = '---\nlicense: "mit\\n---\\n# evil"\nbase_model: [a, b]\n---\n'
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(hostile)
    prune_transformer(tiny_transformer(), tiny_tokens(8), pattern="2:4").save(tmp_path / "other")
    assert "license" not in front((tmp_path / "other" / "README.md").read_text())


class Hub:
    """A stand-in for huggingface_hub.HfApi that keeps what it is given."""

    made: ClassVar[list[Any]] = []
    files: ClassVar[dict[str, bytes]] = {}

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        self.made.append((name, private, exist_ok))

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
        self.files.update({p.name: p.read_bytes() for p in Path(folder_path).iterdir()})
        return f"https://hub.example/{repo_id}: {commit_message}"


def test_results_are_pushed_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    write_tiny_model(tmp_path / "base")
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    result = prune_transformer(tiny_transformer(), tiny_tokens(8), pattern="2:4")
    said = result.push_to_hub("me/tiny", like=tmp_path / "base", private=True)
    assert said == "https://hub.example/me/tiny: A model pruned by prunopt"
    assert Hub.made == [("me/tiny", True, True)]
    assert {"README.md", "prunopt.json", "model.safetensors", "config.json", "tokenizer.json"} <= Hub.files.keys()
    place = tmp_path / "again"
    place.mkdir()
    for name, data in Hub.files.items():
        (place / name).write_bytes(data)
    assert sum(p.numel() for p in load(place).parameters()) == sum(p.numel() for p in result.model.parameters())
    Hub.files.clear()
    streamed = prune_transformer(tmp_path / "base", tiny_tokens(8), pattern="2:4", out=tmp_path / "out")
    streamed.push_to_hub("me/tiny")
    assert Hub.files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"folder must be left out, .*the streamed model is in"):
        streamed.save(tmp_path / "elsewhere")


def test_names_of_the_hub_are_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    place = tmp_path / "models--me--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    write_tiny_model(place / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model, tokenizer = read_model("me/tiny")
    assert tokenizer is not None
    assert sum(p.numel() for p in model.parameters()) > 0
    streamed = prune_transformer("me/tiny", tiny_tokens(8), pattern="2:4", out=tmp_path / "out")
    assert streamed.folder == tmp_path / "out"
    with pytest.raises(ValueError, match="hf download you/other --local-dir other, and pass other"):
        read_model("you/other")
    with pytest.raises(ValueError, match="must be an existing folder, or one of smollm2"):
        read_model("nowhere")
    with pytest.raises(ValueError, match="must be an existing folder"):
        read_model(str(tmp_path / "nowhere"))
