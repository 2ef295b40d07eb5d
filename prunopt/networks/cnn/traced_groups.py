"""The channels of a network, as its graph has them."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from prunopt.core.arrays import Ints
from prunopt.networks.cnn._following import Follower, followed
from prunopt.networks.cnn._tracing import Layout, traced
from prunopt.networks.cnn.channels import ChannelGroups, Slot, TensorSlot
from prunopt.networks.cnn.inputs import Batch, Inputs


def follow(model: nn.Module, example: Inputs, *, by_numbers: bool = False) -> tuple[ChannelGroups, Follower, Ints]:
    """Trace a network without a trial; return the channels, what followed them, and the channel of every label."""
    by_hand = (
        "pass groups by hand, in Python: prune_cnn(..., widths=Widths(groups=channel_groups(model, example, "
        "groups=[[('conv1', 'out'), ('bn1', 'out'), ('conv2', 'in')], ...])))"
    )
    given = len(example.arguments) if isinstance(example, Batch) else 1
    errors: list[Exception] = []
    for shapes, numbers in ((None, False), (example, False), (example, True)):
        try:
            graph = traced(model, given, shapes, numbers=numbers)
            break
        except Exception as raised:  # torch.fx raises whatever the model's own code does with a proxy
            errors.append(raised)
    else:
        error = errors[0]
        place = f" in {error.__notes__[-1]!r}" if getattr(error, "__notes__", [""])[-1] else ""
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        failed = f"{type(model).__name__}, which torch.fx cannot trace{place} ({why})"
        raise ValueError(f"model must be traceable, got {failed}; {by_hand}") from error
    layout = Layout()
    graph.meta["numbers"] = by_numbers or graph.meta["numbers"]
    run = followed(graph, example, layout)
    groups = replace(collected(layout), by_numbers=by_numbers)
    return groups, run, layout.settled()[0]


def collected(layout: Layout) -> ChannelGroups:
    """Return what a layout has come to."""
    channel, group, fixed = layout.settled()
    slots = tuple(
        Slot(name, kind, channel[ins], channel[outs], positions, runs)
        for name, (kind, ins, outs, positions, runs) in layout.slots.items()
    )
    tensors = tuple(TensorSlot(name, axis, channel[row.numpy()]) for name, (row, axis) in layout.tensors.items())
    return ChannelGroups(slots, group, fixed, tensors, tuple(dict.fromkeys(layout.pinned)))
