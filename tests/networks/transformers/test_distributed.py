"""Second moments over the ranks of torch.distributed are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.distributed import hessians, rank_and_size, shard, summed
from prunopt.networks.transformers.families import blocks
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer

PROGRAM = """
import json, os, sys
import numpy as np, torch, torch.distributed as dist
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.distributed import hessians, rank_and_size, shard, summed
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer
from prunopt.networks.transformers.families import blocks
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, size = rank_and_size()
model = tiny_transformer()
block = blocks(model)[0]
mine = shard(tiny_tokens(7))
with torch.no_grad():
    found = hessians(Activations(model, [block], as_calibration(mine)), block, block.layers)
try:
    summed({"a": np.zeros(rank + 1)}, 1.0)
    refused = ""
except ValueError as error:
    refused = str(error)
if rank == 0:
    np.savez(sys.argv[1], **{name.replace(".", "/"): h for name, h in found.items()})
with open(f"{sys.argv[1]}.{rank}.json", "w") as file:
    json.dump([rank, size, len(mine), refused], file)
dist.barrier()  # no rank leaves while another still talks to it: gloo aborts otherwise
dist.destroy_process_group()
os._exit(0)  # a thread of gloo's that is still there when the interpreter ends aborts the process, now and then
"""


def one_process() -> dict[str, Any]:
    model = tiny_transformer()
    block = blocks(model)[0]
    return hessians(Activations(model, [block], as_calibration(tiny_tokens(7))), block, block.layers)


@pytest.mark.slow
def test_two_processes_sum_to_one(tmp_path: Path) -> None:
    program, out = tmp_path / "ranks.py", tmp_path / "h.npz"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", str(program), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads(Path(f"{out}.{rank}.json").read_text()) for rank in (0, 1)]
    assert [row[:3] for row in said] == [[0, 2, 4], [1, 2, 3]]
    assert all("have the same names and shapes on all ranks" in row[3] for row in said)
    expected = one_process()
    with np.load(out, allow_pickle=False) as found:
        for name, h in expected.items():
            assert np.abs(found[name.replace(".", "/")] - h).max() <= 1e-6 * np.abs(h).max()


def test_without_a_group() -> None:
    assert rank_and_size() == (0, 1)
    assert len(shard(tiny_tokens(5))) == 5
    a = np.arange(4.0)
    found = summed({"a": a}, 3.0)["a"]
    assert np.array_equal(found, a)
    assert found is not a
    with pytest.raises(ValueError, match=r"weight must be .*got 0"):
        summed({"a": a}, 0)
