"""The attention layers of any model whose heads can be gated: known families, and `torch.nn.MultiheadAttention`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunopt.networks.heads.multihead import Gate, SeparateAttention, WrittenAttention
from prunopt.networks.transformers.families import Attention, blocks, family_of

ADAPTER = """Teach prunopt the model in one file:
    from prunopt.networks import register_family
    from prunopt.networks.transformers.families import Attention, Block
    def reader(model):  # None where the model is another's
        return [Block(name, block, Attention(name, block.attn, "q", "k", "v", block.attn, "o", head_dim, n_heads,
                n_groups), None, ()) for name, block in ...]
    register_family("mine", reader)"""


@dataclass(frozen=True, eq=False)
class HeadLayer:
    """One layer of attention heads.

    Parameters
    ----------
    name
        Where it is in the model.
    n_heads, n_groups, head_dim
        Query heads, the key-value heads that they share, and the width of each.
    attention
        As its family describes it; None for a `torch.nn.MultiheadAttention`.
    module
        The module of the attention.
    """

    name: str
    n_heads: int
    n_groups: int
    head_dim: int
    attention: Attention | None
    module: nn.Module

    @property
    def heads_per_group(self) -> int:
        """Query heads that share a key-value head."""
        return self.n_heads // max(1, self.n_groups)

    def attach(self, gate: Gate) -> Callable[[], None]:
        """Let ``gate`` act on the heads' outputs, (batch, length, heads * width); returns what takes it away again."""
        if self.attention is not None:

            def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                return (gate(args[0]), *args[1:])

            return self.attention.projection.register_forward_pre_hook(hook).remove
        return _attach_multihead(self.module, gate)


def _attach_multihead(module: Any, gate: Gate) -> Callable[[], None]:
    before = module.__dict__.get("forward")

    def forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        return WrittenAttention.of(module, gate)(query, key, value, *args, **kwargs)

    module.forward = forward
    # A hook that does nothing: torch's encoder layer looks for hooks before it takes its fused path past the module.
    handle = module.register_forward_pre_hook(lambda *_: None)

    def detach() -> None:
        handle.remove()
        if before is None:
            del module.__dict__["forward"]
        else:
            module.forward = before

    return detach


def head_layers(model: nn.Module) -> list[HeadLayer]:
    """Return the attention layers of a model, first to last.

    Known families (`prunopt.networks.register_family` adds others) come first; any other model is searched for
    `torch.nn.MultiheadAttention`.

    Raises
    ------
    ValueError
        If there is no attention that is understood; names the class and shows how to add it.
    """
    try:
        family_of(model)
    except ValueError:
        found = [
            HeadLayer(name, int(m.num_heads), int(m.num_heads), int(m.head_dim), None, m)
            for name, m in model.named_modules()
            if isinstance(m, nn.MultiheadAttention | SeparateAttention)
        ]
        if found:
            return found
        parts = ", ".join(f"{n} ({type(m).__name__})" for n, m in list(model.named_children())[:6])
        raise ValueError(
            f"model: the attention of {type(model).__name__} with {parts or 'no children'} is not known, and it has no "
            f"torch.nn.MultiheadAttention. {ADAPTER}"
        ) from None
    return [
        HeadLayer(a.name, a.n_heads, a.n_groups, a.head_dim, a, a.module) for b in blocks(model) for a in b.attentions
    ]
