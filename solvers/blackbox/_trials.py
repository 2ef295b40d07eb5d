"""One trial of a black-box search, on any Optuna storage: ask, look up, evaluate, tell.

Every trial has an index that is its own for good: the trial's number, less the trials in front of it that only
repeated a lost one or came too many. The sampler is rebuilt from (seed, index) for each trial, so that a search that
was stopped goes on just as it would have.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prunopt.forms.blackbox import BlackBox, Point

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

NOTE = "prunopt"  # the user attribute that holds what is known of a trial
RETRY, SURPLUS, LOST, WORKER = "retry_of", "surplus", "lost", "worker"
REFUSED = 100  # trials in a row without an evaluation: the space is used up
SamplerFactory = Callable[["optuna.Study", int, int], "optuna.samplers.BaseSampler"]


def quiet() -> Any:
    """Return optuna, its log lines below warnings silenced."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def kept_study(name: str, storage: Any) -> Any:
    """Return a study of a storage, as Optuna loads it, that has the storage as its ``kept``."""
    optuna = quiet()

    class KeptStudy(optuna.Study):  # type: ignore[misc,name-defined]
        kept = storage

        def trial_id(self, number: int) -> int:
            """Return what the storage calls a trial."""
            study = storage.get_study_id_from_name(name)
            return int(storage.get_trial_id_from_study_id_trial_number(study, number))

    return KeptStudy(name, storage)


def distributions(box: BlackBox) -> dict[str, Any]:
    """Return the genes as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        g.name: CategoricalDistribution(g.options) if g.options else FloatDistribution(g.low, g.high) for g in box.genes
    }


def stream(seed: int, index: int) -> np.random.Generator:
    """Return the random numbers of one trial."""
    return np.random.default_rng(np.random.SeedSequence([seed, index]))


def indices(trials: list[FrozenTrial]) -> list[int]:
    """Return the index of every trial; all trials of a study, by number."""
    extra = np.cumsum([0] + [RETRY in t.user_attrs or SURPLUS in t.user_attrs for t in trials])
    return [int(t.user_attrs.get(RETRY, t.number - extra[t.number])) for t in trials]


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials in the order of their index, of each index the first."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    done: dict[int, FrozenTrial] = {}
    for index, t in zip(indices(trials), trials, strict=True):
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED):
            done.setdefault(index, t)
    return [done[index] for index in sorted(done)]


def losses(study: optuna.Study) -> list[tuple[float, Point, str]]:
    """Return (loss, point, key) of the evaluated decisions, complete ones first, best first, each key once."""
    from optuna.trial import TrialState

    seen: dict[str, tuple[bool, float, int, FrozenTrial]] = {}
    for order, t in enumerate(finished(study)):
        key = str(t.user_attrs.get(NOTE, {}).get("key", t.number))
        if key not in seen and t.value is not None:
            seen[key] = (t.state is TrialState.PRUNED, float(t.value), order, t)
    rows = sorted(seen.items(), key=lambda item: item[1][:3])
    return [(entry[1], entry[3].params, key) for key, entry in rows]


def known_keys(study: optuna.Study) -> set[str]:
    """Return the keys of all decisions that were evaluated or are being evaluated."""
    notes = (t.user_attrs.get(NOTE, {}) for t in study.get_trials(deepcopy=False))
    return {str(note["key"]) for note in notes if "key" in note}


def sampler_of(make: SamplerFactory, seed: int) -> Any:
    """Return an Optuna sampler that is rebuilt for each trial, from its index."""
    optuna = quiet()

    class Renewed(optuna.samplers.BaseSampler):  # type: ignore[misc,name-defined]
        inner: Any = None

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            index = indices(study.get_trials(deepcopy=False))[trial.number]
            fresh = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
            self.inner = make(study, fresh, index)
            return self.inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self.inner.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return self.inner.sample_independent(study, trial, name, distribution)

        def before_trial(self, study: Any, trial: Any) -> None:
            pass

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            pass

    return Renewed()


@dataclass
class Outcome:
    """How one trial ended."""

    state: str  # "evaluated", "copied", "pruned", "invalid", "surplus" or "missed"
    value: float = math.nan
    point: Point = field(default_factory=dict)
    number: int = -1


def run_trial(
    study: Any,
    box: BlackBox,
    *,
    limit: int | None = None,
    worker: str = "",
    reclaim: Callable[[], Any] | None = None,
    queued_only: bool = False,
) -> Outcome:
    """Ask for one trial, evaluate it unless its decision is known, and tell its loss.

    Parameters
    ----------
    study
        Of `kept_study`, with a sampler of `sampler_of`, and a pruner where the box has several fidelities.
    limit
        How many trials the study may have; one that turns out to be too many is given up.
    worker
        Who runs the trial, noted in it before anything else.
    reclaim
        Called while waiting for another worker, to give up trials whose worker has died.
    queued_only
        Take a queued trial or none.

    Raises
    ------
    Exception
        Whatever ``box.loss`` raises; the trial is then noted as lost.
    """
    from optuna.trial import TrialState

    trial = _ask(study, box, worker, queued_only)
    if trial is None:
        return Outcome("missed")
    everyone = study.get_trials(deepcopy=False)
    index = indices(everyone)[trial.number]
    before = {k for _, k in _alive(everyone[: trial.number])}
    # Two workers may each have queued a lost trial; of trials with one index the first counts.
    if index in before or (limit is not None and len(before) >= limit):
        trial.set_user_attr(SURPLUS, True)
        study.tell(trial, state=TrialState.FAIL)
        return Outcome("surplus")
    point = dict(trial.params)
    decision = box.decode(point)
    note: dict[str, Any] = {"index": index}
    if decision is None:
        trial.set_user_attr(NOTE, note)
        study.tell(trial, state=TrialState.FAIL)
        return Outcome("invalid", point=point, number=trial.number)
    note["key"] = box.key(decision)
    trial.set_user_attr(NOTE, note)
    twin = _twin(study, trial.number, note["key"], reclaim)
    if twin is not None:
        trial.set_user_attr("copy_of", twin.number)
        for step, value in twin.intermediate_values.items():
            trial.report(value, step)
        # A pruned trial takes over the last value reported.
        given = None if twin.state is TrialState.PRUNED and twin.intermediate_values else twin.value
        study.tell(trial, given, state=twin.state)
        return Outcome("copied", math.inf if twin.value is None else float(twin.value), point, trial.number)
    try:
        for step, fidelity in enumerate(box.fidelities):
            value = float(box.loss(decision, fidelity))
            if math.isnan(value):
                trial.set_user_attr("invalid", f"the loss is NaN at fidelity {fidelity:g}; it counts as infinite")
                value = math.inf
            if fidelity < 1.0:
                trial.report(value, step)
                if trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    return Outcome("pruned", value, point, trial.number)
    except BaseException as error:
        give_up(study, trial.number, f"{type(error).__name__}: {error}"[:500])
        raise
    study.tell(trial, value)
    return Outcome("evaluated", value, point, trial.number)


def _alive(trials: list[FrozenTrial]) -> list[tuple[FrozenTrial, int]]:
    """Return the trials that are finished, running or queued, with their indices."""
    from optuna.trial import TrialState

    return [(t, k) for t, k in zip(trials, indices(trials), strict=True) if t.state is not TrialState.FAIL]


def _ask(study: Any, box: BlackBox, worker: str, queued_only: bool) -> Any:
    """Take a queued trial, or make one that names its worker from the start, which ``study.ask`` cannot."""
    import optuna
    from optuna.trial import TrialState, create_trial

    found = _take_queued(study)
    if found is None and queued_only:
        return None
    if found is None:
        template = create_trial(state=TrialState.RUNNING, user_attrs={WORKER: worker})
        home = study.kept.get_study_id_from_name(study.study_name)
        found = study.kept.create_new_trial(home, template_trial=template)
    else:
        study.kept.set_trial_user_attr(found, WORKER, worker)
    trial = optuna.Trial(study, found)
    suggest(trial, box)
    return trial


def _take_queued(study: Any) -> int | None:
    """Take the first queued trial that no other worker takes at the same moment; return what the storage calls it."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    for queued in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        found: int = study.trial_id(queued.number)
        try:
            if _claim(study.kept, found):
                return found
        except UpdateFinishedTrialError:  # taken, and ended already
            continue
    return None


def _claim(storage: Any, trial: int) -> bool:
    """Take a queued trial; False if another worker has it.

    On SQLite, which locks no row that is read, Optuna lets two workers take one trial; one conditional UPDATE does not.
    """
    from optuna.trial import TrialState

    if not isinstance(storage, quiet().storages.RDBStorage):
        return bool(storage.set_trial_state_values(trial, state=TrialState.RUNNING))
    from sqlalchemy import text

    line = "UPDATE trials SET state = 'RUNNING', datetime_start = :now WHERE trial_id = :trial AND state = 'WAITING'"
    with storage.engine.begin() as connection:
        done = connection.execute(text(line), {"now": datetime.datetime.now(), "trial": trial})
    return int(done.rowcount) == 1


def suggest(trial: Any, box: BlackBox) -> None:
    """Draw the genes."""
    for g in box.genes:
        if g.options:
            trial.suggest_categorical(g.name, g.options)
        else:
            trial.suggest_float(g.name, g.low, g.high)


def give_up(study: Any, number: int, why: str) -> bool:
    """Fail a running trial and queue its point again; False if somebody else has ended it before."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    trial = trials[number]
    if trial.state is not TrialState.RUNNING:
        return False
    index = indices(trials)[number]
    try:
        # Told first, queued second: of two workers one alone may queue it. `queue_lost` mends a death in between.
        study.kept.set_trial_user_attr(study.trial_id(number), LOST, why)
        study.tell(number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return False
    _again(study, trial, index)
    return True


def queue_lost(study: optuna.Study) -> int:
    """Queue lost trials that nobody has queued again; return how many."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    alive = {index for _, index in _alive(trials)}
    lost = {  # of several with one index the last
        index: t
        for index, t in zip(indices(trials), trials, strict=True)
        if t.state is TrialState.FAIL and LOST in t.user_attrs and SURPLUS not in t.user_attrs
    }
    missing = sorted(lost.keys() - alive)
    for index in missing:
        _again(study, lost[index], index)
    return len(missing)


def _again(study: optuna.Study, trial: FrozenTrial, index: int) -> None:
    """Queue a lost trial: its point, if that was whole; half a point is drawn again, from the same random numbers."""
    study.enqueue_trial(dict(trial.params) if NOTE in trial.user_attrs else {}, user_attrs={RETRY: index})


def _twin(study: optuna.Study, number: int, key: str, reclaim: Callable[[], Any] | None) -> FrozenTrial | None:
    """A finished trial with the same decision; None if this trial is the one to evaluate it.

    Among the trials with one key the first evaluates. So that all agree on who is first, everybody waits until the
    trials in front have said their keys, which they do at once.
    """
    from optuna.trial import TrialState

    pause, since = 0.005, time.monotonic()
    while True:
        trials = study.get_trials(deepcopy=False)
        waiting = False
        for t in trials[:number] + trials[number + 1 :]:
            mine = t.user_attrs.get(NOTE, {}).get("key")
            if mine == key and t.state in (TrialState.COMPLETE, TrialState.PRUNED) and "copy_of" not in t.user_attrs:
                return t
            if t.number < number and t.state is TrialState.RUNNING and (mine is None or mine == key):
                waiting = True
        if not waiting:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.5)
        if reclaim is not None and time.monotonic() - since > 1.0:
            reclaim()
            since = time.monotonic()
