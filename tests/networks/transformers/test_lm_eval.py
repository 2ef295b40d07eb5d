"""A pruned model under lm-evaluation-harness: a small task of the test's own, nothing is downloaded."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
import transformers

from prunopt.networks import load, prune_transformer, read_model
from prunopt.networks.transformers.text import tokens_of
from prunopt.networks.transformers.tiny_models import tiny_tokens, write_tiny_model

TASK = """\
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{answers}}}}"
doc_to_target: right
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the harness and what it loads
def test_the_harness_scores_a_pruned_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HF_DATASETS_CACHE", str(tmp_path / "cache")), ("HF_HUB_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    lm_eval: Any = pytest.importorskip("lm_eval")
    hugging_face: Any = import_module("lm_eval.models.huggingface")
    tasks: Any = import_module("lm_eval.tasks")

    write_tiny_model(tmp_path / "tiny")
    model, tokenizer = read_model(tmp_path / "tiny")
    prune_transformer(model, tiny_tokens(8), sparsity=0.3).save(tmp_path / "out", like=tmp_path / "tiny")
    rows: list[dict[str, Any]] = [
        {"question": f"the fox no. {k} ", "answers": ["jumps", "sleeps"], "right": k % 2} for k in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "choices.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    pruned: Any = load(tmp_path / "out")
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    wrapped = hugging_face.HFLM(pretrained=pruned, tokenizer=tokens, device="cpu")
    found = lm_eval.simple_evaluate(
        model=wrapped, tasks=["choices"], bootstrap_iters=0,
        task_manager=tasks.TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
    )  # fmt: skip

    def likelihood(question: str, answer: str) -> float:
        start, ids = len(tokens_of(tokenizer, question)), tokens_of(tokenizer, question + answer)
        with torch.no_grad():
            chances = pruned(input_ids=ids[None]).logits[0].log_softmax(-1)
        return float(sum(chances[i - 1, ids[i]] for i in range(start, len(ids))))

    right = 0
    for row in rows:
        values = [likelihood(row["question"], a) for a in row["answers"]]
        right += values.index(max(values)) == row["right"]
    assert found["results"]["choices"]["acc,none"] == pytest.approx(right / len(rows))
