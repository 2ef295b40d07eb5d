"""Integer models by HiGHS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunopt.solvers.mip.pulp import Pulp


@dataclass(frozen=True)
class HighsMilp(Pulp):
    """Write the problem as a linear or integer model and hand it to HiGHS [1]_, through PuLP.

    This is what ``solver="highs"`` means for problems that are not linear programs, and the default of integer models.
    As with `Pulp`, an optimal answer is so by the engine's word.

    References
    ----------
    .. [1] Q. Huangfu, J. A. J. Hall, "Parallelizing the dual revised simplex method", Math. Prog. Comp. 10 (2018).
    """

    name: ClassVar[str] = "highs-milp"
    rank: ClassVar[int] = 88
    requires: ClassVar[tuple[str, ...]] = ("pulp", "highspy")
    reference: ClassVar[str] = "Huangfu & Hall, Math. Prog. Comp. 2018"

    engine: str | None = "HiGHS"
