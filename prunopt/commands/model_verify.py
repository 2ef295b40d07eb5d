"""Check a model that ``prunopt forest`` chose: its bills, what it reads, and the figures, all computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prunopt.commands.forest_best import PAGE, best, misclassified, read_model
from prunopt.core.solution import CertificateError
from prunopt.core.validate import Shown, require

TOLERANCE = 1e-9
AGAIN = "chosen", "unseen_rows", "candidates", "score", "remarks", "cost_of_all_features", "rows"


def is_model_folder(folder: Path) -> bool:
    """Return whether ``prunopt forest --out`` wrote ``folder`` without ``--path``."""
    return (folder / PAGE).is_file()


def verify_model(folder: Path) -> dict[str, Any]:
    """Check a folder that ``prunopt forest`` wrote, and return what was checked.

    The table and the costs are read again from where the report says they came from. On all rows the saved model's
    cost of each row is compared with what the acquired features cost, component by component, and its predictions with
    those from rows whose other features are hidden. Then everything is fitted again from the seed, and every figure of
    the report, and every prediction of the saved model, is compared.

    Raises
    ------
    ValueError
        If the folder holds no such model, or its inputs are gone.
    CertificateError
        If anything stated is not so.
    """
    from prunopt.commands.forest import read_case

    model, report = read_model(folder)
    mend = "write it again with --out"
    require(isinstance(report.get("inputs"), dict), str(folder / PAGE), "name its inputs", Shown("none"), mend)
    given: dict[str, Any] = report["inputs"]
    costs = None if given["costs"] is None else Path(given["costs"])
    case = read_case(given["data"], given["target"], costs, tuple(given["keep"]))
    case.known = tuple(report["known"])
    X = np.asarray(case.X, np.float64)
    found = model.predict_on_demand(X)
    _same("the cost of each row", found.cost, _bills(case.feature_costs, found.acquired), 1e-6)
    seen = found.acquired | np.isin(case.names, case.known)
    blind = model.predict_on_demand(np.where(seen, X, np.nan))
    _same("predictions from acquired features alone", blind.predictions, found.predictions)

    wishes = dict(report["wishes"])
    if "misclassification_costs" in wishes and given["misclassification_costs"] is not None:
        wishes["misclassification_costs"] = misclassified(Path(given["misclassification_costs"]))
    again, told = best(case, report["budget"], report["seed"], lambda text: None, wishes)
    for name in AGAIN:
        _alike(name, report[name], told[name])
    _same("the predictions of the saved model", again.predict_on_demand(X).predictions, found.predictions)
    return {
        "bills": f"right for {len(X)} rows, {found.cost.mean():.6g} on average",
        "reads": "only what it acquires",
        "figures": f"those of {len(report['candidates'])} candidates and the comparison, fitted again from the seed",
        "model": "predicts what the one fitted again predicts",
        "claim": "chosen by cross-fitting: no optimum is claimed",
    }


def _bills(costs: Any, acquired: Any) -> Any:
    """What rows cost, each component of the costs once, by sets: other code than the model's."""
    out = np.zeros(len(acquired))
    for i, row in enumerate(acquired.tolist()):
        groups = {int(costs.group_of[k]) for k, has in enumerate(row) if has}
        incurred = {int(c) for g in groups for c in costs.components_of[g] if c >= 0}
        price = costs.component_cost[i if len(costs.component_cost) > 1 else 0]
        out[i] = sum(float(price[c]) for c in incurred)
    return out


def _same(what: str, stated: Any, found: Any, tolerance: float = 0.0) -> None:
    if np.asarray(stated).dtype.kind in "fc":
        fits = np.allclose(stated, found, rtol=tolerance or TOLERANCE, atol=tolerance or TOLERANCE)
    else:
        fits = bool(np.array_equal(stated, found))
    if not fits:
        rows = int(np.sum(np.asarray(stated) != np.asarray(found)))
        raise CertificateError(f"not confirmed: {what} of {rows} rows")


def _alike(what: str, stated: Any, found: Any) -> None:
    """Compare what a report states with what was found, all the way down."""
    if isinstance(stated, dict) and isinstance(found, dict) and stated.keys() == found.keys():
        for name, value in stated.items():
            _alike(f"{what}.{name}", value, found[name])
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for k, (one, other) in enumerate(zip(stated, found, strict=True)):
            _alike(f"{what}[{k}]", one, other)
    elif isinstance(stated, float | int) and isinstance(found, float | int):
        if not abs(stated - found) <= TOLERANCE * max(1.0, abs(found)):
            raise CertificateError(f"not confirmed: {what} is stated as {stated}, found {found}")
    elif stated != found:
        raise CertificateError(f"not confirmed: {what} is stated as {stated!r}, found {found!r}")
