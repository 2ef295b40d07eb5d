"""Which channels of a group go first, and what every width loses: magnitude, Taylor, or the layers' own error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prunopt.core.arrays import Floats, Ints
from prunopt.networks.cnn.channel_groups import ChannelGroups, Slot, modules_of
from prunopt.networks.cnn.replay import channels_last
from prunopt.solvers.layer._obs_kernel import Elimination

IMPORTANCES = ("obs", "fisher", "taylor", "magnitude")
PATCHES = 200  # places of a picture's feature map that enter a Hessian
STEP = 8  # channels removed between two downdates


@dataclass(frozen=True, eq=False)
class Ranking:
    """A group's channels in the order in which they go, and the layers' relative error after 0, 1, 2, ... of them."""

    group: int
    order: Ints
    error: Floats


def rank_channels(
    model: nn.Module, groups: ChannelGroups, chosen: Sequence[int], images: torch.Tensor | None, *,
    importance: str = "obs", damping: float = 1e-3, batch: int = 16, seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Ranking]:  # fmt: skip
    r"""Rank the free channels of groups.

    ``"obs"`` removes the channels whose going changes the outputs of the layers that read them least, those layers
    re-solved: :math:`\sum_f \min_{W'} \|W X - W' X\|^2 / \|W X\|^2`, greedily, with the pictures' own activations X.
    ``"fisher"`` does the same with the error of every output weighted by the mean square of the slope of the network's
    log-probabilities there (labels drawn from its own predictions): what the later layers make of an error counts, and
    the sum estimates half the divergence of the predictions, in nats, with errors taken as independent.
    ``"taylor"`` adds up :math:`|x \, \partial L / \partial x|` of a channel x under the network's own labels;
    ``"magnitude"`` the squared weights that write and read it.
    """
    if importance not in IMPORTANCES:
        raise ValueError(f"importance={importance!r}: give one of {', '.join(IMPORTANCES)}")
    if importance != "magnitude" and images is None:
        raise ValueError(f"importance={importance!r}: calibration pictures are needed")
    if importance in ("obs", "fisher"):
        assert images is not None
        slopes = _slopes(model, groups, images, batch, seed) if importance == "fisher" else None
        return _by_error(model, groups, chosen, images, damping, batch, seed, progress, slopes)
    scores = _magnitudes(model, groups) if importance == "magnitude" else _taylor(model, groups, images, batch)
    out = []
    for g in chosen:
        free = _free(groups, g)
        order = free[np.argsort(scores[free], kind="stable")]
        total = max(float(scores[groups.members(g)].sum()), 1e-300)
        out.append(Ranking(g, order, np.r_[0.0, np.cumsum(scores[order])] / total))
    return out


def _free(groups: ChannelGroups, g: int) -> Ints:
    members = groups.members(g)
    return members[~groups.fixed[members]]


def _magnitudes(model: nn.Module, groups: ChannelGroups) -> Floats:
    scores, modules = np.zeros(groups.n_channels), modules_of(model, groups)
    for slot in groups.slots:
        if not slot.consumes:
            continue
        module: Any = modules[slot.name]
        squares = (module.weight.detach().double() ** 2).flatten(2) if module.weight.ndim > 2 else None
        table = (module.weight.detach().double() ** 2 if squares is None else squares.sum(2)).cpu().numpy()
        np.add.at(scores, slot.outs, table.sum(1) / max(table.sum(), 1e-300))
        if slot.kind != "grouped":
            np.add.at(scores, slot.ins, table.sum(0) / max(table.sum(), 1e-300))
    return scores


def _taylor(model: nn.Module, groups: ChannelGroups, images: Any, batch: int) -> Floats:
    scores, modules = np.zeros(groups.n_channels), modules_of(model, groups)
    held: dict[str, torch.Tensor] = {}
    hooks = []
    for slot in groups.slots:
        if slot.consumes:

            def keep(_: Any, args: Any, name: str = slot.name) -> None:
                held[name] = args[0]
                args[0].retain_grad()

            hooks.append(modules[slot.name].register_forward_pre_hook(keep))
    model.eval()
    try:
        for x in torch.split(images, batch):
            x = x.clone().requires_grad_(True)
            logits = model(x)
            F.cross_entropy(logits, logits.detach().argmax(1), reduction="sum").backward()  # type: ignore[no-untyped-call]
            for slot in groups.slots:
                slope = held[slot.name].grad if slot.consumes else None
                if slope is not None:
                    part = held[slot.name] * slope
                    by_image = part.flatten(2).sum(2) if part.ndim > 2 else part
                    np.add.at(scores, slot.ins, by_image.abs().sum(0).detach().double().cpu().numpy())
            model.zero_grad(set_to_none=True)
    finally:
        for hook in hooks:
            hook.remove()
    return scores


def _slopes(
    model: nn.Module, groups: ChannelGroups, images: torch.Tensor, batch: int, seed: int
) -> dict[str, Floats]:  # fmt: skip
    """Return, for every output of a layer, the mean over pictures of the squared slopes summed over its places."""
    sums: dict[str, torch.Tensor] = {}
    hooks = []
    for slot in groups.slots:
        if not slot.consumes or slot.kind == "grouped":
            continue

        def add(slope: torch.Tensor, name: str) -> None:
            part = (slope.double() ** 2).transpose(0, 1).flatten(1).sum(1)
            sums[name] = sums.get(name, 0) + part

        def watch(_: Any, __: Any, out: torch.Tensor, name: str = slot.name) -> None:
            # on what the layer gave, also where a later one works in place
            out.register_hook(partial(add, name=name))  # type: ignore[no-untyped-call]

        hooks.append(model.get_submodule(slot.name).register_forward_hook(watch))
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    try:
        for x in torch.split(images, batch):
            found = model(channels_last(x).requires_grad_(True))
            drawn = torch.multinomial(found.detach().softmax(1).cpu(), 1, generator=generator)[:, 0].to(found.device)
            F.cross_entropy(found, drawn, reduction="sum").backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / len(images)).cpu().numpy() for name, total in sums.items()}


def hessians(
    model: nn.Module, slots: Sequence[Slot], images: torch.Tensor, *, batch: int = 16, seed: int = 0
) -> dict[str, Floats]:
    """Return X X^T / n of the patches that each layer reads, (in * taps, in * taps), channels outermost."""
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    generator = torch.Generator().manual_seed(seed)
    hooks = []
    for slot in slots:
        module = model.get_submodule(slot.name)

        def add(module: Any, args: Any, name: str = slot.name) -> None:
            rows = patches(module, args[0], generator).double()
            sums[name] = sums.get(name, 0) + rows.T @ rows
            counts[name] = counts.get(name, 0) + len(rows)

        hooks.append(module.register_forward_pre_hook(add))
    try:
        with torch.inference_mode():
            for x in torch.split(images, batch):
                model.eval()(channels_last(x))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / counts[name]).cpu().numpy() for name, total in sums.items()}


def patches(module: Any, x: torch.Tensor, generator: torch.Generator | None, most: int = PATCHES) -> torch.Tensor:
    """Return what a layer multiplies its weights with, (samples, in * taps); a random part of the places.

    Without a module: the features of each place.
    """
    if x.ndim == 2:
        return x
    if module is None or (module.kernel_size == (1, 1) and module.stride == (1, 1) and not any(_margins(module))):
        flat = x.flatten(2)
        if generator is not None and flat.shape[2] > most:
            flat = flat[:, :, torch.randperm(flat.shape[2], generator=generator)[:most]]
        return flat.transpose(1, 2).reshape(-1, flat.shape[1])
    padded = padded_input(module, x)
    unfolded = F.unfold(padded, module.kernel_size, module.dilation, 0, module.stride).transpose(1, 2)
    places = unfolded.shape[1]
    if generator is not None and places > most:
        unfolded = unfolded[:, torch.randperm(places, generator=generator)[:most]]
    return unfolded.reshape(-1, unfolded.shape[2])


def taps(module: Any, x: torch.Tensor, generator: torch.Generator, most: int = PATCHES // 4) -> torch.Tensor:
    """Return what each channel of a depthwise layer multiplies its kernel with, (channels, samples, taps)."""
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    views = padded_input(module, x).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)
    views = views[..., ::dh, ::dw]
    at = torch.randperm(views.shape[2] * views.shape[3], generator=generator)[:most]
    chosen = views[:, :, at // views.shape[3], at % views.shape[3]]  # (images, channels, places, rows, columns)
    return chosen.permute(1, 0, 2, 3, 4).reshape(x.shape[1], -1, kh * kw)


def _margins(module: Any) -> tuple[int, ...]:
    """The padding of a convolution of one tap; 0 where it pads to the "same" size, which then is no padding."""
    return module.padding if isinstance(module.padding, tuple) else (0,)


def padded_input(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Return a convolution's input with its padding, that of TensorFlow's "same" convolutions included."""
    if hasattr(module, "pads"):  # a window of taps
        return F.pad(x, module.pads(int(x.shape[2]), int(x.shape[3])))
    if hasattr(module, "static_padding"):
        padded: torch.Tensor = module.static_padding(x)
        return padded
    if isinstance(module.padding, str) or type(module).__name__ == "Conv2dDynamicSamePadding":
        return F.pad(x, same_padding(module, x.shape[2], x.shape[3]))
    vertical, horizontal = module.padding
    return F.pad(x, [horizontal, horizontal, vertical, vertical])


def same_padding(module: Any, height: int, width: int) -> list[int]:
    """Return left, right, top, bottom of the padding that keeps ceil(size / stride) output places."""
    out: list[int] = []
    for size, k, s, d in zip((width, height), reversed(module.kernel_size), reversed(module.stride),
                             reversed(module.dilation), strict=True):  # fmt: skip
        total = 0 if module.padding == "valid" else max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        out += [total // 2, total - total // 2]
    return out


def _by_error(
    model: nn.Module, groups: ChannelGroups, chosen: Sequence[int], images: torch.Tensor, damping: float, batch: int,
    seed: int, progress: Callable[[str], None] | None, slopes: dict[str, Floats] | None = None,
) -> list[Ranking]:  # fmt: skip
    readers = {g: [s for s in groups.consumers(g) if s.kind != "grouped"] for g in chosen}
    wanted = {s.name: s for slots in readers.values() for s in slots}
    tables = hessians(model, list(wanted.values()), images, batch=batch, seed=seed)
    layers: dict[str, tuple[Floats, Floats, float]] = {}
    for name, H in tables.items():
        module: Any = model.get_submodule(name)
        W = module.weight.detach().double().flatten(1).cpu().numpy()
        if slopes is not None:
            W = np.sqrt(slopes[name] / 2)[:, None] * W
        energy = max(float(np.vdot(W @ H, W)), 1e-300) if slopes is None else 1.0
        damped = H + damping * max(float(np.diagonal(H).mean()), 1e-300) * np.eye(len(H))
        layers[name] = (W, np.asarray(np.linalg.inv(damped), np.float64), energy)
    out = []
    for number, g in enumerate(chosen):
        out.append(_eliminate(groups, g, readers[g], layers))
        if progress is not None:
            progress(f"{number + 1} of {len(chosen)} groups ranked")
    return out


def _eliminate(groups: ChannelGroups, g: int, readers: list[Slot], layers: Any) -> Ranking:
    free = _free(groups, g)
    if not readers:
        return Ranking(g, free, np.zeros(len(free) + 1))
    parts: list[tuple[Elimination, dict[int, Ints], float]] = []
    for slot in readers:
        W, inverse, energy = layers[slot.name]
        taps = W.shape[1] // len(slot.ins)
        columns: dict[int, Ints] = {}
        for channel in free.tolist():
            at = np.flatnonzero(slot.ins == channel)
            columns[channel] = (at[:, None] * taps + np.arange(taps)).ravel()
        parts.append((Elimination(W, inverse), columns, energy))
    left, order, error = free.tolist(), list[int](), [0.0]
    while left:
        costs = np.zeros(len(left))
        for layer, columns, energy in parts:
            present = [i for i, c in enumerate(left) if len(columns[c])]
            costs[present] += layer.costs([columns[left[i]] for i in present]) / energy
        step = min(STEP, max(1, len(left) // 32), len(left))
        gone = [left[i] for i in np.argsort(costs, kind="stable")[:step]]
        spent = 0.0
        for layer, columns, energy in parts:
            at = np.concatenate([columns[c] for c in gone])
            spent += layer.remove(at) / energy if len(at) else 0.0
        error += [error[-1] + spent * (k + 1) / len(gone) for k in range(len(gone))]
        order += gone
        left = [c for c in left if c not in set(gone)]
    return Ranking(g, np.array(order, np.int64), np.array(error))
