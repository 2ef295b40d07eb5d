"""The one place that runs HiGHS, by itself or through PuLP: quietly, and looking at every return code."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

_lock = threading.Lock()
_greeted = False


class EngineError(RuntimeError):
    """HiGHS refused an option, a model, or to run; the message says which."""


def new_engine(options: Mapping[str, Any] | None = None) -> Any:
    """Return a ``highspy.Highs`` without log, with options set.

    Raises
    ------
    EngineError
        If HiGHS refuses an option.
    """
    import highspy

    swallow_banner()
    engine: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    set_options(engine, {"output_flag": False, **(options or {})})
    return engine


def swallow_banner() -> None:
    """Have HiGHS print its banner now, to nowhere.

    From 1.16 on the first constructor of a process prints two lines on standard output, before any option can be set.
    """
    global _greeted
    with _lock:
        if not _greeted:
            import highspy

            with no_stdout():
                highspy.Highs()  # type: ignore[no-untyped-call]
            _greeted = True


@contextmanager
def no_stdout() -> Iterator[None]:
    """Keep what C++ prints, whatever its options, out of standard output."""
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def set_options(engine: Any, options: Mapping[str, Any]) -> None:
    """Set options by name; raises `EngineError` where one is refused."""
    for name, value in options.items():
        _accepted(engine.setOptionValue(name, value), f"option {name}={value!r}")


def pass_model(engine: Any, model: Any) -> None:
    """Hand over a model; raises `EngineError` where it is refused."""
    _accepted(engine.passModel(model), "the model; its coefficients may be too far apart")


def run(engine: Any) -> Any:
    """Run, and return the model's status; raises `EngineError` where HiGHS did not run to a status of its own.

    An engine that refuses to run (because of an option, say) leaves zeros as its solution, which can be feasible.
    """
    import highspy

    code = engine.run()
    status = engine.getModelStatus()
    if code == highspy.HighsStatus.kError or is_broken(status):
        raise EngineError(f"HiGHS did not run ({code.name}, {status.name})")
    return status


def run_pulp(model: Any, engine: Any, label: str) -> str:
    """Solve a model in place; return "" or how the engine failed.

    PuLP looks at none of HiGHS's return codes, and takes "unbounded or infeasible" for infeasible.
    """
    import pulp

    if label != "HiGHS":
        try:
            model.solve(engine)
        except pulp.PulpSolverError:
            return "broke off"
        return ""
    import highspy

    swallow_banner()
    kinds = highspy.HighsModelStatus
    for _ in range(2):
        try:
            model.solve(engine)
        except (pulp.PulpSolverError, IndexError, KeyError):  # no solution to read, or a status that PuLP lacks
            if not hasattr(model, "solverModel"):
                return "broke off"
        status = model.solverModel.getModelStatus()
        if status not in (kinds.kUnboundedOrInfeasible, kinds.kUnknown):
            break
        engine.optionsDict["presolve"] = "off"  # which of the two it is, the full model tells
    readable = not is_broken(status) and status not in (kinds.kUnboundedOrInfeasible, kinds.kUnknown)
    return "" if readable else f"did not solve the model ({status.name})"


def begin_with_values(engine: Any) -> None:
    """Have PuLP's HiGHS take the values that variables have when it is called as its first solution."""
    build = engine.buildSolverModel

    def build_and_begin(model: Any) -> None:
        import numpy as np

        build(model)
        known = [(v.index, v.varValue) for v in model.variables() if v.varValue is not None]
        if known:
            places, values = zip(*known, strict=True)
            model.solverModel.setSolution(len(known), np.array(places, np.int32), np.array(values, np.float64))

    engine.buildSolverModel = build_and_begin


class Interruption:
    """Whether Ctrl-C was pressed while HiGHS ran; the callback that stops it, and that tells how far it is.

    ``tell(objective, bound)``, of an integer program, returns whether to stop.
    """

    def __init__(self) -> None:
        import highspy

        kinds = highspy.cb.HighsCallbackType
        self.happened = False
        self.tell: Callable[[float, float], bool] | None = None
        self.error: BaseException | None = None
        self.asked = False
        self.integer = kinds.kCallbackMipInterrupt
        self.callbacks = [kinds.kCallbackMipInterrupt, kinds.kCallbackSimplexInterrupt]

    def __call__(self, kind: Any, message: str, out: Any, into: Any, data: Any) -> None:
        """Tell HiGHS to stop, as its callback."""
        if self.tell is not None and kind == self.integer and not self.asked:
            try:
                self.asked = self.tell(float(out.mip_primal_bound), float(out.mip_dual_bound))
            except BaseException as error:  # it must not pass through the engine's own code
                self.error, self.asked = error, True
        if self.happened or self.asked:
            into.user_interrupt = True


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Have Ctrl-C stop HiGHS at its next look instead of Python after it: what HiGHS has found is kept.

    Signals reach the main thread only; elsewhere nothing changes.
    """
    state = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        state.happened = True

    usual = threading.current_thread() is threading.main_thread()
    if not (usual and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield state
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield state
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def has_value(model: Any) -> bool:
    """Whether HiGHS holds a feasible point of a model that it has run on."""
    import highspy

    held = model.solverModel.getInfo().primal_solution_status
    return bool(held == highspy.SolutionStatus.kSolutionStatusFeasible)


def open_gap(model: Any) -> float:
    """Return by how much the best point of a model that HiGHS has run on exceeds its bound; infinite without bound."""
    if not model.isMIP():
        return math.inf
    info = model.solverModel.getInfo()
    gap = float(info.objective_function_value) - float(info.mip_dual_bound)
    return max(0.0, gap) if math.isfinite(gap) else math.inf


def is_broken(status: Any) -> bool:
    """Whether a model's status says that the engine failed or never ran."""
    import highspy

    kinds = highspy.HighsModelStatus
    broken = (kinds.kNotset, kinds.kLoadError, kinds.kModelError, kinds.kPresolveError, kinds.kSolveError)
    return status in (*broken, kinds.kPostsolveError)


def _accepted(code: Any, what: str) -> None:
    import highspy

    if code == highspy.HighsStatus.kError:
        raise EngineError(f"HiGHS refuses {what}")
