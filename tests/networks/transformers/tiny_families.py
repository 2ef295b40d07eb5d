"""Tiny models of every family, with random weights, and the table of what prunopt can do with them.

``python tests/networks/transformers/tiny_families.py`` tries every job; ``--write`` puts what comes of it into the
table of the documentation.
"""

from __future__ import annotations

import json
import runpy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.overrides import TorchFunctionMode

from prunopt.networks import load, prune_transformer
from prunopt.networks.transformers import calibration
from prunopt.networks.transformers.block_arguments import output_of
from prunopt.networks.transformers.calibration_inputs import two_sided
from prunopt.networks.transformers.expert_surgery import keep_experts, keep_neurons
from prunopt.networks.transformers.families import Attention, Experts, blocks, weight_of
from prunopt.networks.transformers.one_shape import stock_group_counts
from prunopt.networks.transformers.surgery import group_columns, parameters_of, remove_groups, remove_neurons

JOBS = ("heads", "ffn", "experts", "2:4", "unstructured")
BASE = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
    "tie_word_embeddings": False,
}  # fmt: skip
GROUPED = BASE | {"num_key_value_heads": 4}
OPT = {k: v for k, v in BASE.items() if k != "intermediate_size"} | {"ffn_dim": 64, "word_embed_proj_dim": 32}
FALCON = {k: v for k, v in BASE.items() if k != "intermediate_size"} | {"ffn_hidden_size": 64}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = GROUPED | EXPERTS | {
    "num_key_value_heads": 8, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
}  # fmt: skip
TWO_SIDES = {
    "vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None,
    "init_std": 0.2,
}  # fmt: skip
T5 = {
    "vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 0, "initializer_factor": 1.0,
}  # fmt: skip
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
        "eos_token_id": 2, "initializer_range": 0.2}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4, "initializer_range": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model to try: what the table calls it, its configuration and class, and what is special about it."""

    name: str
    config: str
    kind: str
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def model(self) -> Any:
        config = getattr(transformers, self.config)(**self.more)
        config._attn_implementation = "eager"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(transformers, self.kind)(config).eval()
            for parameter in model.parameters():  # zeros and ones would hide mistakes
                parameter.data.add_(torch.randn_like(parameter) * 0.02)
            return model


def causal(name: str, prefix: str, more: dict[str, Any] = GROUPED, **changed: Any) -> Case:
    return Case(name, f"{prefix}Config", f"{prefix}ForCausalLM", more | changed)


SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 8}
GEMMA3 = GROUPED | SLIDING
CASES = (
    causal("Llama 1", "Llama", BASE), causal("Llama 2, 3", "Llama"), causal("Mistral", "Mistral", sliding_window=8),
    causal("Qwen2", "Qwen2"), causal("Qwen3", "Qwen3", head_dim=8), causal("Qwen3-MoE", "Qwen3Moe", GROUPED | EXPERTS),
    causal("Mixtral", "Mixtral", GROUPED | EXPERTS), causal("SmolLM3", "SmolLM3"), causal("Granite", "Granite"),
    causal("Gemma 1", "Gemma", head_dim=8), causal("Gemma 2", "Gemma2", GEMMA3),
    Case("Gemma 3", "Gemma3TextConfig", "Gemma3ForCausalLM", GEMMA3),
    Case("Gemma 4", "Gemma4TextConfig", "Gemma4ForCausalLM", GEMMA3 | {
        "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "global_head_dim": 8,
    }),
    Case("Gemma 3, with images", "Gemma3Config", "Gemma3ForConditionalGeneration", {
        "text_config": GEMMA3, "vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": 95,
    }),
    Case("Qwen2.5-VL", "Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", {
        "text_config": GROUPED | {"rope_parameters": {
            "rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 1e4,
        }},
        "vision_config": {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4,
                          "intermediate_size": 64},
    }),
    causal("Phi-2", "Phi", BASE), causal("Phi-3, Phi-4", "Phi3"), causal("GLM-4", "Glm4", head_dim=8),
    causal("OPT", "OPT", OPT), Case("GPT-2", "GPT2Config", "GPT2LMHeadModel", GPT2),
    causal("GPT-NeoX, Pythia", "GPTNeoX", BASE), causal("Falcon", "Falcon", FALCON | {
        "new_decoder_architecture": True, "num_kv_heads": 4, "alibi": False,
    }),
    causal("Falcon 7B", "Falcon", FALCON | {"multi_query": True, "alibi": False}),
    causal("BLOOM", "Bloom", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0,
                              "initializer_range": 0.2}),
    causal("OLMo 1", "Olmo"), causal("OLMo 2", "Olmo2"), causal("OLMo 3", "Olmo3", GROUPED | {
        "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"],
    }),
    causal("StableLM", "StableLm"), causal("Cohere 1", "Cohere", use_qk_norm=True),
    causal("Cohere 2", "Cohere2", GEMMA3), causal("StarCoder2", "Starcoder2"),
    causal("GPT-OSS", "GptOss", GEMMA3 | EXPERTS), causal("DeepSeek-V2", "DeepseekV2", LATENT, q_lora_rank=None),
    causal("DeepSeek-V3", "DeepseekV3", LATENT, q_lora_rank=16),
    Case("BERT", "BertConfig", "BertForMaskedLM", BASE), Case("RoBERTa", "RobertaConfig", "RobertaForMaskedLM", BASE),
    Case("DistilBERT", "DistilBertConfig", "DistilBertForMaskedLM", {
        "vocab_size": 96, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }),
    Case("ELECTRA", "ElectraConfig", "ElectraForMaskedLM", BASE | {"embedding_size": 16}),
    Case("ModernBERT", "ModernBertConfig", "ModernBertForMaskedLM", BASE | {
        "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8,
    }),
    Case("MPNet", "MPNetConfig", "MPNetForMaskedLM", BASE),
    Case("ViT", "ViTConfig", "ViTModel", VISION), Case("DeiT", "DeiTConfig", "DeiTModel", VISION),
    Case("DINOv2", "Dinov2Config", "Dinov2Model", VISION | {"mlp_ratio": 2}),
    Case("CLIP, text", "CLIPTextConfig", "CLIPTextModel", BASE | {"num_attention_heads": 4}),
    Case("CLIP, images", "CLIPVisionConfig", "CLIPVisionModel", VISION),
    Case("Whisper", "WhisperConfig", "WhisperForConditionalGeneration", TWO_SIDES | {
        "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64,
    }),
    Case("T5", "T5Config", "T5ForConditionalGeneration", T5), Case("T5, encoder", "T5Config", "T5EncoderModel", T5),
    Case("T5 1.1, encoder", "T5Config", "T5EncoderModel", T5 | {"feed_forward_proj": "gated-gelu"}),
    Case("BART", "BartConfig", "BartForConditionalGeneration", TWO_SIDES),
    Case("Marian", "MarianConfig", "MarianMTModel", TWO_SIDES),
)  # fmt: skip


def inputs(model: Any, n: int = 2, length: int = 16, *, padded: bool = False) -> dict[str, torch.Tensor]:
    """What a model is run on: token ids, or pixels."""
    draw = torch.Generator().manual_seed(1)
    takes = getattr(model, "main_input_name", "input_ids")
    if takes == "pixel_values":
        return {"pixel_values": torch.randn(n, 3, 16, 16, generator=draw)}
    given = {"input_ids": torch.randint(3, 90, (n, length), generator=draw)}
    if takes == "input_features":
        given = {"input_features": torch.randn(n, 8, 32, generator=draw)}
    elif padded:
        given["attention_mask"] = torch.ones(n, length, dtype=torch.long)
        given["attention_mask"][:, -5:] = 0
    if two_sided(model):  # of another length than the source
        given["decoder_input_ids"] = torch.randint(3, 90, (n, length - 4), generator=draw)
        if padded:
            given["decoder_attention_mask"] = torch.ones(n, length - 4, dtype=torch.long)
            given["decoder_attention_mask"][:, -3:] = 0
    return given


def values(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        out = model(**given)
    found: torch.Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return found


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Greatest difference, relative to the greatest value."""
    return float((a - b).abs().max() / b.abs().max())


def removal(case: Case, job: str) -> float:
    """How far a model whose heads, neurons or experts are removed is from one where they are masked."""
    if job == "experts":
        return expert_removal(case)
    masked, cut = case.model(), case.model()
    for model in (masked, cut):
        for block in blocks(model):
            for part in block.attentions if job == "heads" else (block.feed_forward, block.experts):
                if part is not None:
                    _remove(part, masked=model is masked)
    given = inputs(masked)
    return far(values(cut, given), values(masked, given))


class WithoutExpert(TorchFunctionMode):
    """Routers never pick an expert: its logit is minus infinity."""

    def __init__(self, routers: list[Any], expert: int) -> None:
        super().__init__()
        self.weights, self.expert = {r.weight.data_ptr() for r in routers}, expert

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.linear and args[1].data_ptr() in self.weights:
            out = out.clone()
            out[..., self.expert] = -torch.inf
        return out


def expert_removal(case: Case) -> float:
    """How far a model without the second expert of each layer is from one that never picks it."""
    masked, cut = case.model(), case.model()
    for block in blocks(cut):
        if block.experts is not None:
            keep_experts(block.experts, torch.tensor([k for k in range(block.experts.count) if k != 1]))
    given = inputs(masked)
    with WithoutExpert([b.experts.router for b in blocks(masked) if b.experts is not None], 1):
        never = values(masked, given)
    return far(values(cut, given), never)


def _remove_from_experts(part: Experts, *, masked: bool) -> None:
    """Remove eight neurons of each expert, other ones each, or what they give."""
    gone = [sorted({(e + 5 * k) % part.width for k in range(8)}) for e in range(part.count)]
    if not masked:
        stay = [[k for k in range(part.width) if k not in g] for g in gone]
        keep_neurons(part, torch.tensor(stay))
        return
    with torch.no_grad():
        for expert, columns in enumerate(gone):
            part.down[expert][:, columns] = 0
        if part.shared is not None:
            weight_of(part.shared.projection)[:, -8 * part.shared_width :] = 0


def _remove(part: Any, *, masked: bool) -> None:
    """Remove a head group or three neurons, or what they give."""
    if isinstance(part, Experts):
        _remove_from_experts(part, masked=masked)
        return
    heads = isinstance(part, Attention)
    gone = [1] if heads else [0, 5, 11]
    if masked:
        columns = torch.cat([torch.from_numpy(group_columns(part)[g]) for g in gone]) if heads else torch.tensor(gone)
        with torch.no_grad():
            weight_of(part.projection)[:, columns] = 0
    elif heads:
        remove_groups(part, gone)
    else:
        remove_neurons(part, gone)


def stream(case: Case, *, padded: bool) -> float:
    """How far the activations of each block, as pruning walks through them, are from the model's own."""
    model = case.model()
    given = inputs(model, padded=padded)
    own: list[torch.Tensor] = []
    found = blocks(model)
    hooks = [b.module.register_forward_hook(lambda _m, _a, out: own.append(output_of(out).detach())) for b in found]
    n = len(next(iter(given.values())))
    for k in range(n):
        values(model, {n: v[k : k + 1] for n, v in given.items()})  # what pruning does
    for hook in hooks:
        hook.remove()
    walk = calibration.Activations(model, found, calibration.as_calibration(given))
    worst = 0.0
    for k, block in enumerate(found):
        walk.advance(block)
        for w in range(n):
            worst = max(worst, far(walk.window(w), own[w * len(found) + k].reshape(walk.window(w).shape)))
    walk.close()
    return worst


def least_share(model: Any) -> float:
    """The least share of heads that one shape in all blocks can lose; 0.15 where the configuration knows none."""
    found = blocks(model)
    sizes = [parameters_of(b) for b in found]
    groups = max((b.attention.n_groups for b in found if b.attention is not None), default=0)
    counts = [g for g in stock_group_counts(model, found) if g < groups]
    if not counts:
        return 0.15
    removed = (groups - max(counts)) * sum(s["group"] for s in sizes)
    return removed / sum(s["attention"] + s["feed_forward"] for s in sizes)


def modelling_class(folder: Path) -> Any:
    """The class in a folder's modeling file, as ``trust_remote_code`` would find it."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (name,) = config["auto_map"].values()
    found = runpy.run_path(str(folder / f"{name.partition('.')[0]}.py"))
    return found[name.partition(".")[2]]


def run(case: Case, job: str) -> str:
    """Prune, save, load, load by stock code, generate with and without a cache; say how it went in a word."""
    model = case.model()
    units, routed = job in ("heads", "ffn", "experts"), any(b.experts is not None for b in blocks(model))
    if job == "experts" and not routed:
        return ""
    asked: dict[str, Any] = {"units": (job,)} if units else {"pattern": job}
    if job != "2:4":
        mixed = routed or any(b.target for b in blocks(model))
        asked["sparsity"] = {"heads": 0.05, "experts": 0.1}.get(job, 0.15) if routed else 0.15
        if job == "heads" and not mixed:
            asked["sparsity"] = least_share(model)
    given = inputs(model)
    result = prune_transformer(model, given, **asked)
    pruned: Any = result.model
    out = values(pruned, given)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        result.save(folder)
        again: Any = load(folder)
        again.set_attn_implementation("eager")  # that of the model: other kernels round differently
        if far(values(again, given), out) > 1e-6:
            return f"WRONG load {far(values(again, given), out):.1e}"
        words, kind = ("stock", type(model)) if result.stock else ("file", modelling_class(folder))
        stock: Any = kind.from_pretrained(folder, attn_implementation="eager").eval()
        if far(values(stock, given), out) > 1e-6:
            return f"WRONG {words} {far(values(stock, given), out):.1e}"
    if units:
        distance = removal(case, job)
        if distance > 2e-6:
            return f"WRONG removal {distance:.1e}"
    if hasattr(pruned, "generate") and pruned.can_generate():
        settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
        asked = {n: v for n, v in inputs(model).items() if not n.startswith("decoder")}
        cached, plain = (stock.generate(**asked, use_cache=c, **settings) for c in (True, False))
        ours = again.generate(**asked, **settings)
        if not (torch.equal(cached, plain) and torch.equal(cached, ours)):
            return "WRONG generation"
    return words


def tried(what: Callable[[], str]) -> str:
    """What a job says, or the line that refuses it, or its traceback's end."""
    try:
        return what()
    except ValueError as error:
        text = str(error)
        ours = ", got " in text and "\n" not in text
        return f"refused: {text}" if ours else f"TRACEBACK ValueError {text[:200]!r}"
    except Exception as error:  # what a user would see as a traceback
        return f"TRACEBACK {type(error).__name__} {str(error)[:200]!r}"


def outcomes(case: Case) -> dict[str, str]:
    def streamed() -> str:
        error = max(stream(case, padded=False), stream(case, padded=True))
        return f"{error:.0e}" if error <= 1e-6 else f"WRONG stream {error:.1e}"

    found = {job: tried(lambda job=job: run(case, job)) for job in JOBS}  # type: ignore[misc]
    return found | {"stream": tried(streamed)}


PAGE = Path(__file__).parents[3] / "docs" / "reference" / "families.md"
HEAD = (
    "| model | heads | neurons | experts | 2:4 | unstructured | what cannot be had |\n|---|---|---|---|---|---|---|\n"
)


def row(case: Case, found: dict[str, str]) -> str:
    """A row of the documentation's table."""
    refused = [word for job, word in found.items() if job in JOBS and word.startswith("refused")]
    why = "; ".join(dict.fromkeys(word.rpartition("; ")[2] if "units" in word else _got(word) for word in refused))
    cells = ["no" if found[job].startswith("refused") else found[job] for job in JOBS]
    return f"| {case.name} | {' | '.join(cells)} | {why} |\n"


def _got(word: str) -> str:
    return word.partition(", got ")[2].partition("; ")[0]


if __name__ == "__main__":
    import sys
    import warnings

    warnings.simplefilter("ignore")
    said: Any = transformers.logging
    said.set_verbosity_error()
    wanted, rows = [word for word in sys.argv[1:] if word != "--write"], ""
    for case in CASES:
        if wanted and not any(w.lower() in case.name.lower() for w in wanted):
            continue
        found = outcomes(case)
        rows += row(case, found)
        for job, word in found.items():
            print(f"{case.name:22} {job:13} {word}", flush=True)
    if "--write" in sys.argv:
        before = PAGE.read_text("utf-8").partition("| model |")[0]
        PAGE.write_text(before + HEAD + rows, "utf-8")
