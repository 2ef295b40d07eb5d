"""lm-evaluation-harness on folders, with a task made of local text: nothing is downloaded.

``python -m benchmarks.harness task FOLDER`` writes the task, ``run FOLDER MODEL ...`` scores folders of models with
stock transformers (it needs lm_eval, and no torch code of prunopt), ``table`` prints what is on file. The task: which
of four pieces of WikiText-2 test text goes on from a beginning; the other three are from elsewhere in the same text.
Questions are from its second half, windows of perplexities elsewhere from its beginning.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.datasets import data_folder
from benchmarks.results import load, store

QUESTIONS, BEGINNING, PIECE = 32, 16, 6  # words
TASK = """\
task: continuations
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{answers}}}}"
doc_to_target: right
target_delimiter: " "
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


def write_task(folder: Path) -> None:
    """Write the questions and the task's description."""
    text = (data_folder() / "wikitext2_test.txt").read_text("utf-8")
    paragraphs = [p.split() for p in text[len(text) // 2 :].splitlines()]
    long = [p for p in paragraphs if len(p) >= BEGINNING + PIECE]
    rng = random.Random(0)
    rng.shuffle(long)
    pieces = [" ".join(p[BEGINNING : BEGINNING + PIECE]) for p in long]
    rows = []
    for k in range(QUESTIONS):
        others = rng.sample([p for i, p in enumerate(pieces) if i != k], 3)
        right = rng.randrange(4)
        answers = [*others[:right], pieces[k], *others[right:]]
        rows.append({"question": " ".join(long[k][:BEGINNING]), "answers": answers, "right": right})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (folder / "continuations.yaml").write_text(TASK.format(file=file.resolve()), "utf-8")


def run(folder: Path, models: list[str]) -> None:
    """Score folders of models, each named by its last part."""
    evaluate: Any = import_module("lm_eval").simple_evaluate
    tasks: Any = import_module("lm_eval.tasks")
    manager = tasks.TaskManager(include_path=str(folder), include_defaults=False)
    for model in models:
        found = evaluate(
            model="hf", model_args=f"pretrained={model},dtype=float32", tasks=["continuations"], device="cpu",
            batch_size=1, bootstrap_iters=0, task_manager=manager, random_seed=0,
        )  # fmt: skip
        scores = found["results"]["continuations"].items()
        row: dict[str, Any] = {k: v for k, v in scores if isinstance(v, float)}
        row["right"] = [bool(s["acc"]) for s in found["samples"]["continuations"]]
        row["lm_eval"] = import_module("importlib.metadata").version("lm_eval")
        store("harness", {Path(model).name: row})
        print(Path(model).name, row["acc,none"], row["acc_norm,none"], file=sys.stderr, flush=True)


def table() -> None:
    """Print what is on file, with standard errors of a share."""
    print("| model | right | right, by length |\n|---|---|---|")
    for name, row in load("harness").items():
        n = len(row["right"])
        cells = [f"{p:.1%} ± {(p * (1 - p) / n) ** 0.5:.1%}" for p in (row["acc,none"], row["acc_norm,none"])]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("task", "run", "table"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("models", nargs="*")
    given = parser.parse_args()
    if given.what == "table":
        table()
    elif given.folder is None:
        parser.error("name a folder for the task")
    elif given.what == "task":
        write_task(given.folder)
    else:
        run(given.folder, given.models)


if __name__ == "__main__":
    main()
