"""Lottery tickets as networks: data, files, mask training, and the problems around the subset sum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from prunopt.cli import app  # noqa: E402
from prunopt.networks.lottery import (  # noqa: E402
    data_masks,
    find_ticket,
    inputs_in_ball,
    measured_error,
    read_network,
)
from prunopt.problems import LotteryTicket  # noqa: E402
from prunopt.solvers.subset_sum.subset_sum_mitm import size_error_fronts  # noqa: E402

nn = torch.nn
RUN = CliRunner()


def target(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def test_masks_fitted_to_data_beat_the_nearest_weights() -> None:
    net = target()
    x = torch.rand(200, 6, generator=torch.Generator().manual_seed(0)) @ torch.rand(6, 6)
    task = LotteryTicket(net, 0.01, rescale=True, nonnegative_input=True, width=10)
    ours = data_masks(task, x, penalty=0.0)
    assert ours.kept == task.objective(ours.masks)
    fronts = size_error_fronts(task.reduce().form, 5)
    nearest = task.reduce().back(fronts.mask(np.full(len(fronts.error), 5)))

    def residual(masks: Any) -> float:
        with torch.no_grad():
            return float(((net(x) - task.ticket(masks).module(x)) ** 2).sum(dim=1).mean())

    assert residual(ours.masks) == pytest.approx(ours.residuals[-1], rel=1e-3)
    assert residual(ours.masks) < residual(nearest) / 2
    fewer = data_masks(task, x, penalty=1e-2)
    assert fewer.kept < ours.kept
    with pytest.raises(ValueError, match="penalty must be"):
        data_masks(task, x, penalty=-1)
    with pytest.raises(ValueError, match="inputs are not signed"):
        data_masks(LotteryTicket(net, 0.01, rescale=True), x, penalty=0.0)


def test_the_measured_error_climbs_but_stays_below_the_certificate() -> None:
    net = target()
    ticket, _, task = find_ticket(net, 0.02, rescale=True)
    x = inputs_in_ball(task.target.input_shape, 500, seed=1)
    assert x.flatten(1).norm(dim=1) == pytest.approx(np.ones(500))
    plain, climbed = (measured_error(net, ticket.module, x, climbs=c) for c in (0, 30))
    assert 0 < plain < climbed <= ticket.certificate.error_bound
    assert (inputs_in_ball((4,), 50, nonnegative=True) >= 0).all()


def test_command_on_a_file(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_file(target().state_dict(), file)
    out = tmp_path / "out"
    done = RUN.invoke(app, ["lottery", "--target", str(file), "--epsilon", "0.02", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["measured_error"] <= report["bound"] <= report["a_priori_bound"]
    assert report["target_accuracy"] is None
    assert report["parameters"]["kept_second"] == report["proven_least"]
    assert sorted(f.name for f in out.iterdir()) == ["ticket.json", "ticket.safetensors"]
    stays = sum(int((t != 0).sum()) for t in load_file(out / "ticket.safetensors").values())
    assert stays == report["parameters"]["kept"]
    plain = RUN.invoke(app, ["lottery", "--target", str(file), "--construction", "golden-ratio", "--epsilon", "0.02"])
    assert plain.exit_code == 0, plain.output
    assert "proven" in plain.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epsilon", "9"], "below the largest weight"),
        (["--epsilon", "0.001", "--width", "8"], "nearest feasible request"),
        (["--no-rescale"], "rescale=True"),
        (["--construction", "gold"], "construction must be one of 'subset-sum', 'golden-ratio', got 'gold'"),
        (["--input-shape", "a"], "--input-shape must be"),
        (["--target", "missing.safetensors"], "file must be there"),
    ],
    ids=str,
)
def test_command_says_what_is_wrong_in_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    file = tmp_path / "net.safetensors"
    wide = 4.0 if "--no-rescale" in arguments else 1.0
    save_file({name: wide * value for name, value in target().state_dict().items()}, file)
    done = RUN.invoke(app, ["lottery", "--target", str(file), *arguments])
    assert done.exit_code == 1
    assert words in done.output
    assert "Traceback" not in done.output


def test_reading_networks(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    conv = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3, bias=False))
    save_file({f"net.{k}": v for k, v in conv.state_dict().items()}, file)
    x = torch.rand(5, 1, 4, 4)
    assert torch.allclose(read_network(file)(x), conv(x))
    save_file({"a.weight": torch.rand(3, 3, 3)}, file)
    with pytest.raises(ValueError, match=r"weights and biases of linear layers and convolutions only, got 'a\.weight'"):
        read_network(file)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="be a safetensors file"):
        read_network(file)
