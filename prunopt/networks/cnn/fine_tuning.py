"""A short fine-tuning with the dense network as the teacher, on pictures without labels; masks are held."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prunopt.core import validate
from prunopt.core.deprecation import moved_arguments
from prunopt.core.files import read_json, write_atomically, write_json
from prunopt.networks.cnn.replay import run_last
from prunopt.networks.cnn.watching import silent

STATE, PROGRESS = "tuning.safetensors", "tuning.json"


@dataclass(frozen=True)
class FineTuning:
    """How long and how fast the pruned network learns from the dense one.

    Parameters
    ----------
    epochs, batch, learning_rate
        Passes over the pictures, pictures of a step, and the rate of Adam.
    temperature
        T, of both predictions.
    folder
        Where the student is kept after every epoch; the same call again goes on from there.
    """

    epochs: int = 1
    batch: int = 16
    learning_rate: float = 1e-4
    temperature: float = 2.0
    folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        validate.whole_number("epochs", self.epochs, low=0)
        validate.whole_number("batch", self.batch, low=1)
        validate.number("learning_rate", self.learning_rate, low=0, open_ends="(")
        validate.number("temperature", self.temperature, low=0, open_ends="(")


@moved_arguments(training=FineTuning)
def fine_tune(
    student: nn.Module,
    teacher: nn.Module,
    images: torch.Tensor,
    *,
    training: FineTuning = FineTuning(),
    masks: dict[str, torch.Tensor] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[float]:
    r"""Train ``student`` in place to predict what ``teacher`` predicts; return the mean loss of every epoch.

    .. math:: T^2 \, \mathrm{KL} ( \mathrm{softmax}(z_{teacher} / T) \,\|\, \mathrm{softmax}(z_{student} / T) )

    Batch norms keep their statistics (pictures are few). Adam's state is not kept between epochs that run in
    different processes: after a restart its moments start at zero, everything else is as it was.

    Parameters
    ----------
    masks
        Bool tensors by parameter name: weights that are False stay zero.
    """
    parameters = dict(student.named_parameters())
    held = {name: mask.to(parameters[name].device) for name, mask in _checked(masks, parameters).items()}
    asked = {
        "batch": training.batch,
        "learning_rate": training.learning_rate,
        "temperature": training.temperature,
        "seed": seed,
        "images": hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest(),
    }
    temperature, epochs, folder = training.temperature, training.epochs, training.folder
    losses, tell = _resume(student, folder, asked), progress or silent
    optimiser = torch.optim.Adam(student.parameters(), lr=training.learning_rate)
    for epoch in range(len(losses), epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed + epoch))
        total = 0.0
        student.eval()
        teacher.eval()
        for at in torch.split(order, training.batch):
            x = images[at]
            with torch.no_grad():
                wanted = F.log_softmax(run_last(teacher, x) / temperature, 1)
            found = F.log_softmax(run_last(student, x) / temperature, 1)
            loss = temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            with torch.no_grad():
                for name, mask in held.items():
                    parameters[name].mul_(mask)
            total += float(loss.detach()) * len(at)
        losses.append(total / max(len(images), 1))
        if folder is not None:
            _keep(student, Path(folder), asked, losses)
        tell(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.4g}")
    return losses


def _checked(masks: dict[str, torch.Tensor] | None, parameters: dict[str, Any]) -> dict[str, torch.Tensor]:
    for name, mask in (masks or {}).items():
        if name not in parameters or parameters[name].shape != mask.shape or mask.dtype != torch.bool:
            raise validate.invalid(
                f"masks[{name!r}]", "be bool, of the shape of the parameter of that name", mask.shape
            )
    return masks or {}


def _keep(student: nn.Module, folder: Path, asked: dict[str, Any], losses: list[float]) -> None:
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in student.state_dict().items()}
    with write_atomically(folder / STATE) as temporary:
        save_file(state, temporary, metadata={"epochs": str(len(losses))})
    write_json(folder / PROGRESS, {"asked": asked, "losses": losses})


def _resume(student: nn.Module, folder: str | os.PathLike[str] | None, asked: dict[str, Any]) -> list[float]:
    if folder is None or not (Path(folder) / PROGRESS).is_file():
        return []
    from safetensors import safe_open

    place = Path(folder)
    kept = read_json(place / PROGRESS)
    if kept.get("asked") != asked:
        raise validate.invalid("folder", "hold no run with other options or pictures", str(folder), "pass another")
    with safe_open(place / STATE, "pt") as file:
        losses = [float(x) for x in kept["losses"]][: int(file.metadata()["epochs"])]
        student.load_state_dict({k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118
    return losses
