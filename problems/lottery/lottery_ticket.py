"""Lottery tickets: a trained network found inside a random one, by pruning alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.problem import Reduced
from prunopt.core.validate import Shown, bools, invalid, number, one_of, require, whole_number
from prunopt.forms.subset.subset_sum import SubsetSum
from prunopt.problems.lottery._modules import mask_of_neurons, network
from prunopt.problems.lottery.certificate import Certificate, a_priori, certify
from prunopt.problems.lottery.sampling import (
    BOUNDS,
    PoolBlock,
    RandomPair,
    blocks,
    described,
    products,
    sample,
)
from prunopt.problems.lottery.target import Target, read_target

if TYPE_CHECKING:
    from torch import nn

Masks = tuple[Bools, ...]
LARGEST = 2**31  # draws of one network; more would not fit into the memory of an ordinary machine


@dataclass(frozen=True, eq=False)
class Ticket:
    """A sub-network that imitates the target: random weights, most of them pruned, none of them trained.

    Parameters
    ----------
    module
        The pruned random network; two layers and a ReLU for every layer of the target. Neurons that are pruned
        altogether are left out (but in grouped convolutions); every weight that is not 0 is an untouched random draw.
    certificate
        What is proven of it.
    counts
        ``sampled`` parameters of the whole random network, ``kept`` of them (``kept_first``, ``kept_second`` in the
        first and the second layers of the pairs), ``neurons_sampled`` and ``neurons_kept``, ``target_weights``.
    """

    module: nn.Sequential
    certificate: Certificate
    counts: dict[str, int]


@dataclass(frozen=True, eq=False)
class LotteryTicket:
    r"""The fewest weights of a random network that imitate a target network, each weight within a tolerance.

    Every linear map W of the target, with inputs x, becomes two random layers with a ReLU between them. The neurons k
    of a pool j read the input :math:`x_j` alone; u are their first weights, v the second ones, m the mask:

    .. math::
        \min_m \sum_{i,j,k} m_{ijk} \quad \text{s.t.} \quad
        \Bigl| W_{ij} - \sum_{k : u_{jk} > 0} m_{ijk} v_{ijk} u_{jk} \Bigr| \le \varepsilon, \quad
        \Bigl| W_{ij} - \sum_{k : u_{jk} < 0} m_{ijk} v_{ijk} u_{jk} \Bigr| \le \varepsilon

    since :math:`v \max(u x, 0)` is :math:`v u x` for x > 0 where u > 0, and for x < 0 where u < 0. Behind a ReLU,
    where no input is negative, the first half is enough. A bias is a weight on the constant 1, read by neurons whose
    input weights are all pruned and whose own random bias stays. What is kept, v, is counted by the objective; a
    neuron's own first weight stays where any of its second weights does.

    Parameters
    ----------
    target_module : torch.nn.Sequential
        Of Linear, Conv2d, ReLU and Flatten layers.
    epsilon
        The tolerance of every weight, below the largest of them.
    construction
        ``"subset-sum"``: uniform weights, any subset of a pool [1]_. ``"golden-ratio"``: log-uniform ("hyperbolic")
        weights, one of each golden interval [2]_; here the neurons of an input serve every output, which the paper's
        batch rule does not use.
    seed
        Of the random network.
    delta
        The probability with which some weight may have no solution, where the width is left to the theory.
    width
        Neurons of each pool; None: by the theory, from epsilon, delta and the number of weights
        (`prunopt.forms.random_pools`).
    rescale
        Draw the weights of each layer from a range that fits the layer. Without it, factors are up to 1 and weights
        beyond 1/2 (subset sums; twice the width beyond 1/4) or 1 (golden ratio) are refused.
    nonnegative_input
        The network's inputs are never negative: half of the first pools can be saved. The certificate then speaks of
        such inputs only.
    input_shape
        Shape of one input without the batch; needed where there are convolutions.

    Notes
    -----
    The value is a tuple of one bool array (outputs, taps, width) for each linear map of the target; a tap is an input
    channel and a place in the kernel, the last one is the bias if there is one. `ticket` turns it into a torch module.

    References
    ----------
    .. [1] A. Pensia, S. Rajput, A. Nagle, H. Vishwakarma, D. Papailiopoulos, "Optimal lottery tickets via SubsetSum:
       logarithmic over-parameterization is sufficient", NeurIPS 2020.
    .. [2] L. Orseau, M. Hutter, O. Rivasplata, "Logarithmic pruning is all you need", NeurIPS 2020.
    """

    forms: ClassVar[tuple[type, ...]] = (SubsetSum,)
    violation_unit: ClassVar[float] = 1.0  # violations count in units of epsilon

    target_module: nn.Sequential
    epsilon: float
    construction: str = "subset-sum"
    seed: int = 0
    delta: float = 0.01
    width: int | None = None
    rescale: bool = False
    nonnegative_input: bool = False
    input_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        one_of("construction", self.construction, tuple(BOUNDS))
        number("delta", self.delta, low=0, high=1, open_ends="()")
        if self.width is not None:
            whole_number("width", self.width, low=1, mend="or None for the width of the theory")
        whole_number("seed", self.seed, low=0)
        largest = max(float(np.abs(layer.weights).max(initial=0.0)) for layer in self.target.layers)
        mend = f"pass a tolerance below the largest weight, {largest:.6g}; at it an empty network would do"
        epsilon = number("epsilon", self.epsilon, low=0, high=max(largest, math.ulp(0.0)), open_ends="()", mend=mend)
        object.__setattr__(self, "epsilon", epsilon)

    @cached_property
    def target(self) -> Target:
        """The target network as arrays."""
        return read_target(self.target_module, input_shape=self.input_shape, nonnegative_input=self.nonnegative_input)

    @cached_property
    def pairs(self) -> tuple[RandomPair, ...]:
        """The random network: the draws that the mask chooses from."""
        options = (self.construction, self.epsilon, self.delta, self.width, self.rescale, int(self.seed))
        return sample(self.target, *options)

    @cached_property
    def blocks(self) -> tuple[PoolBlock, ...]:
        """The targets of each layer and half of the ReLU, and the neurons that they may use."""
        return blocks(self.pairs)

    def reduce(self, to: type | None = None) -> Reduced[Masks]:
        """Return the task as one `SubsetSum` over all weights; shorter lists of candidates end in zeros."""
        if to is not None and to is not SubsetSum:
            raise invalid("to", "be SubsetSum for this task", to.__name__)
        return self._reduced

    @cached_property
    def _reduced(self) -> Reduced[Masks]:
        n = max(block.index.shape[2] for block in self.blocks)
        targets, candidates = [], []
        for block in self.blocks:
            found = products(self.pairs[block.pair], block)
            outputs, taps, own = found.shape
            targets.append(self.target.layers[block.pair].weights[:, :taps].ravel())
            rows = np.zeros((outputs * taps, n))
            rows[:, :own] = found.reshape(-1, own)
            candidates.append(rows)
        form = SubsetSum(np.concatenate(targets), np.concatenate(candidates), self.epsilon, label=self.weight_name)
        return Reduced(form, self._back)

    def weight_name(self, target: int) -> str:
        """Return the name of the weight that target number ``target`` of the form stands for."""
        for block in self.blocks:
            outputs, taps, _ = block.index.shape
            if target < outputs * taps:
                layer = self.target.layers[block.pair]
                half = (" for inputs above 0" if block.half > 0 else " for inputs below 0") if layer.signed else ""
                return layer.place(*divmod(target, taps)) + half
            target -= outputs * taps
        raise invalid("target", "be the number of a weight", target)

    def _back(self, kept: Bools) -> Masks:
        masks = tuple(np.zeros(pair.second.shape, np.bool_) for pair in self.pairs)
        start = 0
        for block in self.blocks:
            outputs, taps, own = block.index.shape
            part = kept[start : start + outputs * taps, :own].reshape(outputs, taps, own)
            start += outputs * taps
            at = np.nonzero(part & (block.index >= 0))
            masks[block.pair][at[0], at[1], block.index[at]] = True
        return masks

    def objective(self, x: Masks, /) -> float:
        """Return the number of second weights kept."""
        return float(sum(np.count_nonzero(mask) for mask in self._as_value(x)))

    def violation(self, x: Masks, /) -> float:
        """Return 0 if every weight is within epsilon on every half of the ReLU, else how far the worst is beyond, in
        units of epsilon."""
        worst = max(float(np.abs(half).max()) for halves in self.errors(x) for half in halves)
        # Sums of floats are off by a few units of the last place of what is added up.
        slack = 1e-9 * self.epsilon
        return max(0.0, worst - self.epsilon - slack) / self.epsilon

    def errors(self, x: Masks) -> list[tuple[Floats, ...]]:
        """Return how far the weights found are from the target's, of each layer one array (outputs, taps) or two.

        The second array, where inputs may be negative, is that of inputs below 0; a bias counts in the first only.
        """
        found = []
        for pair, mask in zip(self.pairs, self._as_value(x), strict=True):
            layer = pair.layer
            halves = []
            for sign in (1, -1) if layer.signed else (1,):
                first = np.where(np.sign(pair.first) == sign, pair.first, 0.0)[layer.pool_of]
                error = np.einsum("otm,otm->ot", pair.second * mask, first) - layer.weights
                if sign < 0 and layer.has_bias:
                    error[:, -1] = 0.0
                halves.append(error)
            found.append(tuple(halves))
        return found

    def ticket(self, x: Masks, *, radius: float = 1.0, compact: bool = True) -> Ticket:
        """Return the sub-network of a mask, with what is proven about it on the ball of inputs of that radius."""
        masks = self._as_value(x)
        neurons = [mask_of_neurons(pair, mask) for pair, mask in zip(self.pairs, masks, strict=True)]
        second = sum(int(np.count_nonzero(mask)) for mask in masks)
        first = sum(int(np.count_nonzero(used)) for used in neurons)
        counts = {
            "target_weights": self.target.n_weights,
            "sampled": sum(pair.n_sampled for pair in self.pairs),
            "kept": first + second,
            "kept_first": first,
            "kept_second": second,
            "neurons_sampled": sum(pair.first.size for pair in self.pairs),
            "neurons_kept": first,
        }
        module = network(self.target, self.pairs, masks, compact=compact, seed=int(self.seed))
        return Ticket(self._like_target(module), self.certificate(masks, radius), counts)

    def certificate(self, x: Masks, radius: float = 1.0) -> Certificate:
        """Return what is proven about a mask on the ball of inputs of that radius."""
        number("radius", radius, low=0, open_ends="(")
        return certify(self.target, self.errors(x), self.epsilon, radius)

    def a_priori_bound(self, radius: float = 1.0) -> float:
        """Return the bound on the output error that holds for every feasible mask."""
        return a_priori(self.target, self.epsilon, radius)

    def random_network(self) -> nn.Sequential:
        """Return the whole random network, unpruned."""
        return self._like_target(network(self.target, self.pairs, None, compact=False, seed=int(self.seed)))

    def report(self) -> list[dict[str, Any]]:
        """Return width and range of the draws, layer by layer."""
        return described(self.pairs)

    def _like_target(self, module: nn.Sequential) -> nn.Sequential:
        dtype = next(self.target_module.parameters()).dtype
        return module.to(dtype=dtype).eval()

    def _as_value(self, x: Masks) -> Masks:
        require(len(x) == len(self.pairs), "x", f"be a tuple of {len(self.pairs)} masks", Shown(len(x)))
        shapes = [pair.second.shape for pair in self.pairs]
        return tuple(bools(f"x[{i}]", mask, shape) for i, (mask, shape) in enumerate(zip(x, shapes, strict=True)))
