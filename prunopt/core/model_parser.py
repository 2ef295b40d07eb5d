"""Parsing of model files by HiGHS, in a process of its own, which imports no more than that needs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.core.engines import new_engine, no_stdout, set_options

REFUSED = 3  # exit status of the process that parses, for files that it can read but not take


def parse() -> None:
    """Parse ``argv[1]`` and write the arrays to ``argv[2]``; what is wrong goes to standard error."""
    try:
        parts = _parsed(Path(sys.argv[1]))
    except UnicodeDecodeError:
        print(f"{sys.argv[1]}: cannot be read as a model (names that are not UTF-8)", file=sys.stderr)
        raise SystemExit(REFUSED) from None
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(REFUSED) from None
    np.savez(sys.argv[2], **parts)


def _parsed(file: Path) -> dict[str, Any]:
    import highspy

    with tempfile.TemporaryDirectory() as folder, no_stdout():
        log = Path(folder) / "log"
        engine = new_engine({"output_flag": True, "log_to_console": False, "log_file": str(log)})
        status = engine.readModel(str(file))
        set_options(engine, {"log_file": ""})
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    lp, quadratic = engine.getLp(), engine.getModel().hessian_.dim_
    if status == highspy.HighsStatus.kError or lp.num_col_ == 0:
        said = [line.split(":", 1)[1].strip() for line in lines if line.startswith("ERROR")]
        why = said[-1] if said and str(file) not in said[-1] else "damaged, empty, or another format"
        raise ValueError(f"{file}: cannot be read as a model ({why})")
    if quadratic:
        raise ValueError(f"{file}: has a quadratic objective; linear models are supported")
    kinds = list(lp.integrality_)
    plain = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    if any(kind not in plain for kind in kinds):
        raise ValueError(f"{file}: has semi-continuous variables; continuous and integer ones are supported")
    if lp.sense_ == highspy.ObjSense.kMinimize and _said_to_maximize(file):
        mend = "solvers read a minimization; pass the pulp.LpProblem itself"
        raise ValueError(f"{file}: says in a comment of PuLP's alone that it is to be maximized ({mend})")
    held = lp.a_matrix_
    return {
        "c": np.array(lp.col_cost_, np.float64),
        "data": np.array(held.value_, np.float64),
        "indices": np.array(held.index_, np.int32),
        "indptr": np.array(held.start_, np.int32),
        "by_column": np.bool_(held.format_ == highspy.MatrixFormat.kColwise),
        "row_lower": np.array(lp.row_lower_, np.float64),
        "row_upper": np.array(lp.row_upper_, np.float64),
        "lower": np.array(lp.col_lower_, np.float64),
        "upper": np.array(lp.col_upper_, np.float64),
        "integer": np.array([kind == highspy.HighsVarType.kInteger for kind in kinds] or [False] * lp.num_col_),
        "offset": np.float64(lp.offset_),
        "maximise": np.bool_(lp.sense_ == highspy.ObjSense.kMaximize),
        "names": np.array([str(name) for name in lp.col_names_], np.str_),
        "row_names": np.array([str(name) for name in lp.row_names_], np.str_),
    }


def _said_to_maximize(file: Path) -> bool:
    """Whether PuLP wrote a maximization as MPS, which says so in a comment, before the name."""
    with open(file, "rb") as data:
        return data.readline(200).strip().lower() == b"*sense:maximize"
