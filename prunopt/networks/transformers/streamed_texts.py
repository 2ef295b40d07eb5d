"""Texts scored before and after, while a model goes through memory block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from prunopt.networks.transformers.before_after import Measured, joined, output, sizes
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import Block
from prunopt.networks.transformers.streaming import StreamedModel
from prunopt.networks.transformers.text import TokenLosses, losses_from

CAUSAL = ("CausalLM", "LMHeadModel")  # how classes with a next-token loss end


class StreamedTexts:
    """Windows of texts that go through each block twice: before it is pruned, and after.

    Parameters
    ----------
    source
        The model.
    texts
        Windows (n, length) by the name of the text.
    """

    def __init__(self, source: StreamedModel, texts: Mapping[str, torch.Tensor]) -> None:
        self.source, self.texts, self._sizes = source, dict(texts), sizes(source.model)
        with source.around():
            self._streams = [
                {name: Activations(source.model, source.blocks, as_calibration(w)) for name, w in self.texts.items()}
                for _ in range(2)
            ]

    def before(self, block: Block) -> None:
        """Put what entered the dense blocks through another one."""
        for stream in self._streams[0].values():
            stream.advance(block)

    def after(self, block: Block) -> None:
        """The same of the pruned ones."""
        for stream in self._streams[1].values():
            stream.advance(block)

    def measured(self) -> tuple[Measured, Measured]:
        """Return the model before and after; nothing is timed."""
        if not self.texts:
            return Measured(*self._sizes), Measured(*sizes(self.source.model))
        causal = type(self.source.model).__name__.endswith(CAUSAL)
        losses: list[dict[str, TokenLosses]] = [{}, {}]
        outputs: list[dict[str, torch.Tensor]] = [{}, {}]
        with self.source.around():
            for k, streams in enumerate(self._streams):
                for name, stream in streams.items():
                    windows = self.texts[name]
                    if causal:
                        pairs = zip(self._outputs(stream), windows, strict=True)
                        losses[k][name] = joined([losses_from(out, w[None]) for out, w in pairs])
                    else:
                        outputs[k][name] = torch.cat([out.float().cpu() for out in self._outputs(stream)])
        both = (self._sizes, sizes(self.source.model))
        first, second = (Measured(*both[k], losses[k], outputs[k]) for k in range(2))
        return first, second

    def _outputs(self, stream: Activations) -> Iterator[torch.Tensor]:
        for k, window in enumerate(stream.calibration.windows):
            self.source.last = stream.window(k)[None].to(self.source.device)
            yield output(self.source.model, {"input_ids": window[None].to(self.source.device)})
        self.source.last = None
