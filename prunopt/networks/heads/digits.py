"""A small vision transformer for scikit-learn's digits: 3 layers of 4 heads, trained in seconds, its own family."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunopt.core.files import write_atomically
from prunopt.networks.heads.head_loss import HeadLoss
from prunopt.networks.heads.losses import Batch, label_loss
from prunopt.networks.transformers.families import Attention, Block, register_family

LAYERS, HEADS, WIDTH = 3, 4, 64
CALIBRATION = 400  # training pictures that selections are chosen on


class DigitsAttention(nn.Module):
    """Self-attention with projections q, k, v, o."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.head_dim = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention's output, (batch, length, width)."""
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, -1, self.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        heads = F.scaled_dot_product_attention(q, k, v) if q.shape[1] else v
        out: Tensor = self.o(heads.transpose(1, 2).reshape(batch, length, -1))
        return out


class DigitsBlock(nn.Module):
    """A pre-norm block: attention, and a feed-forward layer twice as wide."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = DigitsAttention(width, heads)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (batch, length, width)."""
        x = x + self.attention(self.before(x))
        out: Tensor = x + self.down(F.gelu(self.up(self.between(x))))
        return out


class DigitsTransformer(nn.Module):
    """16 patches of 2 x 2 pixels, a class token, blocks, a linear head over ten digits."""

    def __init__(self, layers: int = LAYERS, heads: int = HEADS, width: int = WIDTH) -> None:
        super().__init__()
        self.patches = nn.Linear(4, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.layers = nn.ModuleList(DigitsBlock(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits of pictures (batch, 64)."""
        grid = pictures.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        x = torch.cat([self.token.expand(len(grid), -1, -1), self.patches(grid)], dim=1) + self.position
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(self.norm(x[:, 0]))
        return out


def digits_blocks(model: nn.Module) -> list[Block] | None:
    """Read a `DigitsTransformer`: all that it takes to teach prunopt an architecture."""
    if not isinstance(model, DigitsTransformer):
        return None
    out = []
    for k, layer in enumerate(model.layers):
        assert isinstance(layer, DigitsBlock)
        attention, n_heads = layer.attention, layer.attention.q.out_features // layer.attention.head_dim
        heads = Attention(
            f"layers.{k}.attention", attention, "q", "k", "v", attention, "o", attention.head_dim, n_heads, n_heads
        )
        out.append(Block(f"layers.{k}", layer, heads, None, ()))
    return out


register_family("digits", digits_blocks)


def digits_data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training pictures and labels (1,000), test pictures and labels (797); pixels from 0 to 1."""
    import numpy as np
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(X))
    pictures, labels = torch.from_numpy(X[order] / 16.0).float(), torch.from_numpy(y[order]).long()
    return pictures[:1000], labels[:1000], pictures[1000:], labels[1000:]


def train_digits(
    seed: int = 0,
    *,
    epochs: int = 60,
    layers: int = LAYERS,
    heads: int = HEADS,
    cache: str | os.PathLike[str] | None = None,
) -> DigitsTransformer:
    """Return a trained transformer; with ``cache`` (a folder) it is kept there as safetensors and trained once only."""
    from safetensors.torch import load_file, save_file

    path = None if cache is None else Path(cache) / f"digits-{layers}x{heads}-{seed}-{epochs}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsTransformer(layers, heads)
        if path is not None and path.is_file():
            model.load_state_dict(load_file(path))
            return model.eval()
        X, y, *_ = digits_data(seed)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * 16)
        model.train()
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(X)), 64):
                optimiser.zero_grad()
                torch.autograd.backward(F.cross_entropy(model(X[part]), y[part]))
                optimiser.step()
                plan.step()
    if path is not None:
        with write_atomically(path) as temporary:
            save_file(model.state_dict(), temporary)
    return model.eval()


def digits_loss(model: DigitsTransformer, seed: int = 0, *, batch: int = 100, **options: object) -> HeadLoss:
    """Return the loss on the first 400 training pictures."""
    X, y, *_ = digits_data(seed)
    parts = zip(torch.split(X[:CALIBRATION], batch), torch.split(y[:CALIBRATION], batch), strict=True)
    return HeadLoss(model, [Batch(a, b) for a, b in parts], label_loss, **options)  # type: ignore[arg-type]
