"""Answers of every solver on every conformance instance, as digests: two versions compared to the last bit.

``python -m benchmarks.conformance_record write FILE`` records, ``... compare BEFORE AFTER`` names what differs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import prunopt as po
from prunopt.testing import conformance_cases

TABLE = False  # it prepares for the others


def feed(digest: Any, value: Any) -> None:
    """Add a value, of any nesting, to a digest by its exact bytes."""
    if isinstance(value, np.ndarray):
        digest.update(str((value.dtype, value.shape)).encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            feed(digest, value[key])
    elif isinstance(value, (tuple, list)):
        digest.update(str(len(value)).encode())
        for part in value:
            feed(digest, part)
    elif isinstance(value, (float, np.floating)):
        digest.update(float(value).hex().encode())
    else:
        digest.update(str(value).encode())


def records() -> dict[str, str]:
    """Return the digest of status, value, objective and bound of every case."""
    seen: Counter[str] = Counter()
    out = {}
    for case in conformance_cases():
        key = f"{case.solver.name} on {case.instance.name}"
        seen[key] += 1
        limits = po.Limits() if case.solver.exact else po.Limits(evaluations=50)
        answer = po.solve(case.instance.problem, case.solver, limits=limits, seed=1, throw=False)
        digest = hashlib.sha256(answer.status.name.encode())
        feed(digest, (answer.objective, answer.bound, answer.value))
        out[f"{key} #{seen[key]}"] = digest.hexdigest()[:16]
    return out


def main(words: list[str]) -> int:
    """Write or compare; 1 where two records differ in a case that both have."""
    if words[0] == "write":
        Path(words[1]).write_text(json.dumps(records(), indent=0, sort_keys=True) + "\n")
        return 0
    before, after = (json.loads(Path(name).read_text()) for name in words[1:3])
    differing = [key for key in before if key in after and before[key] != after[key]]
    gone, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    print(
        f"{len(before.keys() & after.keys())} cases in both, {len(differing)} differ, {len(gone)} gone, {len(new)} new"
    )
    for title, keys in (("differs", differing), ("gone", gone), ("new", new)):
        for key in keys:
            print(f"{title}: {key}")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
