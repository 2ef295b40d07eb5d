"""One shape in all blocks, chosen exactly among those that a configuration can state; and blocks that differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from prunopt.core.solution import CertificateError  # noqa: E402
from prunopt.networks import PruneOptions, load, prune_transformer, verify_folder  # noqa: E402
from prunopt.networks.transformers.families import blocks  # noqa: E402
from prunopt.networks.transformers.modelling_file import FILE, KEY  # noqa: E402
from prunopt.networks.transformers.one_shape import one_shape_plan  # noqa: E402
from prunopt.networks.transformers.stock_configs import config_takes  # noqa: E402
from prunopt.networks.transformers.surgery import parameters_of  # noqa: E402
from prunopt.networks.transformers.tiny_models import outputs, tiny_tokens, tiny_transformer  # noqa: E402
from tests.networks.transformers.tiny_families import CASES  # noqa: E402

FREE = PruneOptions(free_shapes=True)


def llama(**more: Any) -> Any:
    sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "pad_token_id": 0}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | heads | more))).eval()


@pytest.mark.parametrize("units", [("ffn",), ("heads", "ffn"), ("heads",)])
@pytest.mark.parametrize("share", [0.03, 0.15, 0.35, 0.7])
@pytest.mark.parametrize("at_least", [False, True])
def test_the_choice_is_that_of_trying_all_shapes(units: tuple[str, ...], share: float, at_least: bool) -> None:
    model = llama()
    found = blocks(model)
    sizes = [parameters_of(b) for b in found]
    total = sum(s["attention"] + s["feed_forward"] for s in sizes)
    group, neuron, target = sum(s["group"] for s in sizes), sum(s["neuron"] for s in sizes), round(share * total)
    near = max(0.005 * total, (neuron if "ffn" in units else group) * (1 if at_least else 0.5))
    able = []
    for stay in range(1, 5):
        if stay < 4 and not ("heads" in units and config_takes(model, heads=(2 * stay, stay, 8))):
            continue
        for gone in range(256) if "ffn" in units else (0,):
            removed = (4 - stay) * group + gone * neuron
            if removed > 0 and abs(removed - target) <= near and (removed >= target or not at_least):
                able.append((abs(4 - stay - share * 4), stay, gone))
    plan, why = one_shape_plan(model, found, target, units=units, at_least=at_least)
    if plan is None:
        assert not able
        assert "no one shape that the configuration of LlamaForCausalLM can state removes about" in why
        return
    assert len(set(plan.groups)) == len(set(plan.neurons)) == 1
    assert (4 - plan.groups[0], plan.neurons[0]) in [(s, g) for _, s, g in able]
    assert abs(plan.groups[0] - share * 4) <= min(able)[0] + 1e-3  # the share of heads that is nearest to the whole
    assert plan.removed == plan.groups[0] * group + plan.neurons[0] * neuron
    step = next(s for s in (64, 32, 8, 1) if s < 64 and (256 - plan.neurons[0]) % s == 0)
    finer = [g for _, s, g in able if s == 4 - plan.groups[0]]
    assert step == 32 or not any((256 - g) % 32 == 0 and g for g in finer)


@pytest.mark.parametrize(("width", "step"), [(800, 8), (3200, 32), (6400, 64)])
def test_wide_models_end_in_multiples(width: int, step: int) -> None:
    model = llama(intermediate_size=width, num_hidden_layers=1)
    total = sum(parameters_of(blocks(model)[0])[p] for p in ("attention", "feed_forward"))
    for target in range(total // 100, total // 2, total // 9):
        plan, _ = one_shape_plan(model, blocks(model), target, units=("ffn",))
        assert plan is not None
        assert (width - plan.neurons[0]) % step == 0
        assert abs(plan.removed - target) <= 0.005 * total


def test_the_configuration_says_what_servers_read(tmp_path: Path) -> None:
    """vLLM and the converter of llama.cpp take shapes from these entries; they are not run here."""
    units: Any = {"units": ("heads", "ffn"), "sparsity": 0.3}
    model = llama(num_attention_heads=8, num_key_value_heads=8)
    result = prune_transformer(model, torch.randint(3, 99, (4, 16)), **units)
    result.save(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert result.stock
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "auto_map" not in config
    state = load(tmp_path / "out").state_dict()
    for k in range(config["num_hidden_layers"]):
        attention, mlp = f"model.layers.{k}.self_attn", f"model.layers.{k}.mlp"
        for name, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads"), ("v", "num_key_value_heads")):
            rows = config[heads] * config["head_dim"]
            assert tuple(state[f"{attention}.{name}_proj.weight"].shape) == (rows, config["hidden_size"])
        assert state[f"{mlp}.down_proj.weight"].shape[1] == config["intermediate_size"]
        assert state[f"{mlp}.up_proj.weight"].shape[0] == config["intermediate_size"]
    assert config["num_attention_heads"] < 8
    assert config["hidden_size"] % config["num_attention_heads"] == 0
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0


def test_where_no_configuration_says_it_shapes_differ_and_a_note_says_so() -> None:
    model, ids = tiny_transformer("gpt2"), tiny_tokens(4)
    result = prune_transformer(model, ids, units="heads", sparsity=0.1)
    assert not result.stock
    assert result.options["free_shapes"] is True
    assert "the configuration of GPT2LMHeadModel has no word for fewer heads" in result.notes[0]
    with pytest.raises(ValueError, match=r"free_shapes must be True or left out here, got False; the configuration of"):
        prune_transformer(model, ids, units="heads", sparsity=0.1, options=PruneOptions(free_shapes=False))


SCRIPT = """
import sys
sys.modules["prunopt"] = None  # an import of it fails
import json, torch, transformers
ids = torch.tensor(json.loads(sys.argv[1]))
for folder, auto, file in json.loads(sys.argv[2]):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True, local_files_only=True).eval()
    with torch.no_grad():
        torch.save(model(input_ids=ids)[0], file)
    if auto == "AutoModelForCausalLM":
        asked = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
        made = [model.generate(ids, use_cache=c, **asked) for c in (False, True)]
        assert torch.equal(*made), (folder, made)
    model.save_pretrained(folder + "-again")
    assert type(model).__name__.startswith("Pruned"), type(model)
"""


def test_blocks_that_differ_load_without_prunopt(tmp_path: Path) -> None:
    ids = tiny_tokens(2, 12)
    given, expected = [], {}
    for name in ("Llama 2, 3", "Phi-3, Phi-4", "GPT-2", "GPT-OSS", "BERT", "DeepSeek-V2"):
        case = next(c for c in CASES if c.name == name)
        units = ("heads",) if name in ("GPT-OSS", "DeepSeek-V2") else ("heads", "ffn")
        result = prune_transformer(case.model(), tiny_tokens(4, 16), units=units, sparsity=0.12, options=FREE)
        place = tmp_path / name.replace(" ", "").replace(",", "-")
        result.save(place)
        verify_folder(place)
        config = json.loads((place / "config.json").read_text())
        if result.stock:  # so few groups that all blocks lose as many
            continue
        (auto,) = config["auto_map"]
        given.append((str(place), auto, str(tmp_path / f"{place.name}.pt")))
        expected[given[-1][2]] = outputs(load(place), ids)
        assert "prunopt" not in (place / FILE).read_text()
    assert len(given) >= 4
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    words = [sys.executable, "-c", SCRIPT, json.dumps(ids.tolist()), json.dumps(given)]
    done = subprocess.run(words, env=home, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for file, values in expected.items():
        torch.testing.assert_close(torch.load(file, weights_only=True), values, rtol=1e-5, atol=1e-5, msg=file)


def test_a_modelling_file_that_was_changed_is_found(tmp_path: Path) -> None:
    result = prune_transformer(tiny_transformer(), tiny_tokens(4), options=FREE)
    result.save(tmp_path / "out")
    assert verify_folder(tmp_path / "out")["modeling file"].startswith(f"{FILE} is as prunopt writes it")
    path, config = tmp_path / "out" / FILE, tmp_path / "out" / "config.json"
    text, told = path.read_text(), json.loads(config.read_text())
    path.write_text(text + "import os\n")
    with pytest.raises(CertificateError, match=r"modeling_pruned\.py is not the file that prunopt writes"):
        verify_folder(tmp_path / "out")
    path.write_text(text)
    told[KEY]["parameters"]["model.layers.0.mlp.up_proj.weight"] = [1, 32]
    config.write_text(json.dumps(told))
    with pytest.raises(CertificateError, match=r"pruned_shapes of config\.json are not the shapes of the weights"):
        verify_folder(tmp_path / "out")


def test_zeros_in_blocks_that_differ_do_not_make_them_stock(tmp_path: Path) -> None:
    ids = tiny_tokens(4)
    narrower = prune_transformer(tiny_transformer(), ids, allocation=[0.125, 0.25, 0.375], units="ffn")
    narrower.save(tmp_path / "narrower")
    widths = [b.feed_forward.width for b in blocks(narrower.model) if b.feed_forward is not None]
    assert len(set(widths)) == 3
    again = prune_transformer(load(tmp_path / "narrower"), ids, pattern="unstructured", sparsity=0.3)
    assert not again.stock
    again.save(tmp_path / "zeros")
    assert torch.equal(outputs(load(tmp_path / "zeros"), ids[:2]), outputs(again.model, ids[:2]))
    assert (tmp_path / "zeros" / FILE).is_file()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_folder_in_half_precision_shrinks_by_what_was_removed(name: str, tmp_path: Path) -> None:
    model = llama(num_hidden_layers=4).to(getattr(torch, name))
    model.save_pretrained(tmp_path / "before")
    result = prune_transformer(model, torch.randint(3, 99, (4, 16)), sparsity=0.2)
    result.save(tmp_path / "after", like=tmp_path / "before")
    before, after = (sum(f.stat().st_size for f in (tmp_path / n).glob("*.safetensors")) for n in ("before", "after"))
    assert after <= 0.85 * before
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "after", dtype="auto")
    assert {p.dtype for p in stock.parameters()} == {getattr(torch, name)}
