"""The task of choosing N:M masks for the weights of a network by the network's own loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats
from prunopt.core.problem import Reduced
from prunopt.core.validate import invalid, require
from prunopt.forms.layer.nm_patterns import candidates, check_pattern
from prunopt.forms.relaxed.relaxed_mask import RelaxedMask

Masks = dict[str, Bools]


@dataclass(frozen=True, eq=False)
class SemiStructuredMask:
    r"""Choose N of every M consecutive inputs of every row, so that the loss of the masked network is least.

    .. math:: \min_{M} \; \mathbb{E}_x L(x; W \odot M), \qquad M \text{ keeps N of each M weights of a row}

    The weights W stay as they are. Each block of M weights chooses among binomial(M, N) masks: a `RelaxedMask`.

    Parameters
    ----------
    shapes : mapping
        (out, in) of each layer's weight. The number of inputs is a multiple of M: there is no rule for a tail, a layer
        that has one is refused by name.
    loss : callable
        ``loss(masks) -> float`` over all data, of bool masks by layer.
    relaxed_loss : callable
        ``relaxed_loss(masks, step) -> torch scalar`` on one batch, differentiable in float tensors (out, in) by layer.
    pattern
        (N, M), or text such as ``"2:4"``.
    prior : mapping, optional
        Masks (out, in) to start near, by layer.
    energy : mapping, optional
        Squared weights (out, in) by layer.
    identity : str
        Names model and data for checkpoints.

    Notes
    -----
    The value is a dict of bool masks. `prunopt.networks.transformers.mask_task` builds the task from a model and text.

    References
    ----------
    .. [1] G. Fang et al., "MaskLLM: learnable semi-structured sparsity for large language models", NeurIPS 2024.
    """

    shapes: Mapping[str, tuple[int, int]]
    loss: Callable[[Masks], float]
    relaxed_loss: Callable[[dict[str, Any], int], Any] | None = None
    pattern: Any = (2, 4)
    prior: Mapping[str, ArrayLike] | None = None
    energy: Mapping[str, ArrayLike] | None = None
    identity: str = ""

    def __post_init__(self) -> None:
        kept, block = check_pattern(self.pattern)
        object.__setattr__(self, "pattern", (kept, block))
        require(self.shapes, "shapes", "name a layer", self.shapes)
        for name, (_, columns) in self.shapes.items():
            must = f"have a number of inputs that is a multiple of {block}"
            require(columns % block == 0, name, must, columns, "leave the layer out, or pad it")

    def objective(self, x: Mapping[str, ArrayLike], /) -> float:
        """Return the loss of the masks."""
        return float(self.loss({name: np.asarray(x[name], np.bool_) for name in self.shapes}))

    def violation(self, x: Mapping[str, ArrayLike], /) -> float:
        """Return how many blocks do not keep exactly N weights."""
        kept, block = self.pattern
        return float(
            sum(int((np.asarray(x[name]).reshape(-1, block).sum(axis=1) != kept).sum()) for name in self.shapes)
        )

    def reduce(self, to: type | None = None) -> Reduced[Masks]:
        """Return the task as a `RelaxedMask`, a table of blocks for each layer."""
        if to is not None and to is not RelaxedMask:
            raise invalid("to", "be RelaxedMask for this task", to.__name__)
        kept, block = self.pattern
        table = candidates(kept, block)
        names = list(self.shapes)

        def masks(points: list[Floats]) -> Masks:
            return {n: (p > 0.5).reshape(self.shapes[n]) for n, p in zip(names, points, strict=True)}

        def sample(points: list[Any], step: int) -> Any:
            assert self.relaxed_loss is not None
            return self.relaxed_loss({n: p.reshape(self.shapes[n]) for n, p in zip(names, points, strict=True)}, step)

        def blocks(given: Mapping[str, ArrayLike] | None) -> list[Floats] | None:
            return None if given is None else [np.asarray(given[n], np.float64).reshape(-1, block) for n in names]

        form = RelaxedMask(
            [out * columns // block for out, columns in self.shapes.values()],
            [table] * len(names),
            lambda points: self.loss(masks(points)),
            None if self.relaxed_loss is None else sample,
            prior=blocks(self.prior),
            energy=blocks(self.energy),
            identity=self.identity,
        )
        return Reduced(form, lambda choices: masks(form.points(choices)))
