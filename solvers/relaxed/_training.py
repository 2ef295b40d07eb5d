"""What solvers that train share: steps until done or stopped, and checkpoints that go on with the same bits."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunopt.core.solver import Run
from prunopt.core.tensor_files import read_tensors, write_tensors
from prunopt.core.validate import Shown, require

if TYPE_CHECKING:
    from torch import Tensor


class Training(ABC):
    """The state of a solver between two steps; its solver has ``steps``, ``every`` and ``folder``.

    A checkpoint is written to ``folder`` every ``every`` steps. The same call resumes from it; a checkpoint of
    another problem, seed or options is refused.
    """

    file: ClassVar[str]
    step: int = 0

    def __init__(self, solver: Any, problem: Any, seed: int) -> None:
        self.solver, self.problem, self.seed = solver, problem, seed
        self.path = None if solver.folder is None else Path(solver.folder) / self.file

    @abstractmethod
    def advance(self) -> str:
        """Take one step; return why it was not taken, with everything as it was, or an empty string."""

    @abstractmethod
    def arrays(self) -> Iterable[Any]:
        """Return the arrays that the outcome depends on."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors of a checkpoint."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Return the numbers of a checkpoint."""

    @abstractmethod
    def restore(self, record: Any, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a checkpoint."""

    def train(self, run: Run, between: Callable[[], Any] = lambda: None) -> str:
        """Take all steps that are left, ``between`` after each; return why it ended early, or an empty string."""
        while self.step < self.solver.steps:
            if run.out_of_time:
                return "the limit was reached"
            try:
                stopped = self.advance()
            except KeyboardInterrupt:
                stopped = "interrupted"
            run.evaluations += 1
            if stopped:
                return stopped
            between()
            if self.path is not None and (self.step % self.solver.every == 0 or self.step == self.solver.steps):
                metadata = {"problem": self._identity(), "numbers": json.dumps(self.record())}
                write_tensors(self.path, self.tensors(), metadata)
        return ""

    def resume(self) -> None:
        """Resume from the checkpoint in the folder, if there is one; ValueError if it is of something else."""
        if self.path is None or not self.path.exists():
            return
        meta, tensors = read_tensors(self.path)
        mend = "pass an empty folder, or repeat the same call"
        mine = meta.get("problem") == self._identity()
        where = f"folder={str(self.path.parent)!r}"
        require(mine, where, "belong to this problem, seed and options", Shown("others"), mend)
        self.restore(json.loads(meta["numbers"]), tensors)

    def _identity(self) -> str:
        """A digest of a solver's options (but where and how often it saves), the seed, and the problem."""
        options = {k: v for k, v in asdict(self.solver).items() if k not in ("folder", "every")}
        text = json.dumps([options, self.seed, self.problem.groups, self.problem.identity], default=str)
        whole = hashlib.sha256(text.encode())
        for array in self.arrays():
            whole.update(np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()
