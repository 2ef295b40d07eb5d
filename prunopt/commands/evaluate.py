"""``prunopt evaluate``: what a language model loses on a text, and how fast it is."""

from __future__ import annotations

import statistics
import time
from typing import Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.lengths import window_length
from prunopt.commands.output import guarded, print_json, progress


@guarded
def evaluate(
    model: Annotated[str, typer.Argument(help="A folder of a model, or smollm2.")],
    text: Annotated[list[str], typer.Option(help="Text file to score; several are scored apart.")],
    windows: Annotated[int | None, typer.Option(help="Score so many windows at most.")] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens in a window. [default: 512, or the model's positions if fewer]")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens scored of each window. [default: all but the first]")
    ] = None,
    speed: Annotated[bool, typer.Option("--speed", help="Time prefill and generation, too.")] = False,
    family: Annotated[str | None, typer.Option(help="FILE.py:reader, a family of your own; the file is run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print perplexity and next-token accuracy on texts; with --speed also tokens per second.

    With --stride the windows slide: each token is scored once, with at least LENGTH - STRIDE tokens before it.
    """
    from prunopt.networks.transformers.families import use_family
    from prunopt.networks.transformers.reading import read_model
    from prunopt.networks.transformers.text import read_text, sliding_losses, token_losses, token_windows

    if family is not None:
        use_family(family)
    length = window_length(model) if length is None else length
    estimates.evaluate(model, length=length, speed=speed, texts=text)
    with progress("evaluate", total=1 + len(text) + speed) as tell:
        tell("reading the model")
        network, tokenizer = read_model(model)
        out: dict[str, Any] = {"model": model, "parameters": sum(p.numel() for p in network.parameters()), "texts": {}}
        for name in text:
            tell(f"scoring {name}")
            parts = token_windows(tokenizer, read_text(name), length=length)[:windows]
            if stride is None:
                found = token_losses(network, parts)
            else:
                found = sliding_losses(network, parts.flatten(), length=length, stride=stride)
            out["texts"][name] = {
                "perplexity": found.perplexity,
                "accuracy": found.accuracy,
                "tokens": int(found.loss.size),
            }
        if speed:
            tell("timing")
            out["speed"] = speed_of(network)
    if as_json:
        print_json(out)
        return
    print(f"{out['parameters']:,} parameters")
    for name, row in out["texts"].items():
        print(f"{name}: perplexity {row['perplexity']:.3f}, accuracy {row['accuracy']:.2%} ({row['tokens']:,} tokens)")
    if speed:
        rate = out["speed"]
        print(f"prefill {rate['prefill']:.0f} tokens/s, generation {rate['generation']:.1f} tokens/s (medians of 3)")


def speed_of(network: Any, prompt: int = 256, new: int = 24, repeats: int = 3) -> dict[str, float]:
    """Return tokens per second of one pass over a prompt, and of greedy generation after it (medians)."""
    import torch

    ids = torch.arange(prompt)[None] % network.config.vocab_size
    prefill, generation = [], []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            network(input_ids=ids, use_cache=False)
            prefill.append(prompt / (time.perf_counter() - start))
            options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
            start = time.perf_counter()
            network.generate(ids[:, :16], attention_mask=torch.ones(1, 16, dtype=torch.long), **options)
            generation.append(new / (time.perf_counter() - start))
    return {"prefill": statistics.median(prefill), "generation": statistics.median(generation)}
