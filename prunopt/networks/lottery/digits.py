"""A small target: a network trained on scikit-learn's handwritten digits, in seconds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prunopt.core import validate
from prunopt.networks.threads import torch_threads


@dataclass(frozen=True, eq=False)
class Digits:
    """The digits, every picture with the Euclidean norm 1, so that a certificate on the unit ball holds for them.

    Parameters
    ----------
    train, test : (n, 64) float32
    train_labels, test_labels : (n,) int64
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def accuracy(self, module: nn.Module) -> float:
        """Return the share of test pictures that a network labels correctly."""
        with torch.no_grad():
            dtype = next(module.parameters()).dtype
            return float((module(self.test.to(dtype)).argmax(dim=1) == self.test_labels).double().mean())


def load_digits(seed: int = 0) -> Digits:
    """Return the 1,797 pictures of 8 x 8 pixels that scikit-learn ships, 60 % of them for training."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    X, y = load(return_X_y=True)
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    a, b, c, d = train_test_split(X, y, test_size=0.4, random_state=seed, stratify=y)
    return Digits(*(torch.from_numpy(np.ascontiguousarray(v)) for v in (a, c.astype(np.int64), b, d.astype(np.int64))))


def train_digits(
    digits: Digits, *, hidden: tuple[int, ...] = (32,), epochs: int = 60, decay: float = 1e-4, seed: int = 0
) -> nn.Sequential:
    """Train a network of linear layers and ReLUs by Adam; same seed, same network, for any number of threads.

    Parameters
    ----------
    digits
        The data.
    hidden
        Widths of the hidden layers.
    epochs
        Passes over the training pictures, in batches of 64.
    decay
        Weight decay: it keeps the norms, and with them the certificate, small.
    seed
        Of the first weights and the order of the pictures.
    """
    validate.whole_number("epochs", epochs, low=1)
    validate.ints("hidden", hidden, ("layers",), low=1)
    generator = torch.Generator().manual_seed(seed)
    sizes = (digits.train.shape[1], *hidden, 10)
    parts: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(n_in, n_out)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(n_out, n_in, generator=generator) * (2.0 / n_in) ** 0.5)
            layer.bias.zero_()
        parts += [layer, nn.ReLU()] if i < len(sizes) - 2 else [layer]
    module = nn.Sequential(*parts)
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    with torch_threads(1):  # more would sum in another order, and end in another network
        for _ in range(epochs):
            for rows in torch.randperm(len(digits.train), generator=generator).split(64):  # type: ignore[no-untyped-call]
                optimiser.zero_grad()
                nn.functional.cross_entropy(module(digits.train[rows]), digits.train_labels[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
    return module.eval()
