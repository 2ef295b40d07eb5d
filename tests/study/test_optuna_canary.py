"""What searches use of Optuna beyond `create_study`, `enqueue_trial` and `tell`: a test each, to name its loss.

No private name is used. The methods of storages are public, but meant for Optuna itself rather than for its users.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState, create_trial

from prunopt.solvers.blackbox._trials import kept_study
from prunopt.study.storages import close

ROOT = Path(__file__).parents[2]
STORAGES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: InMemoryStorage(),
    "journal": lambda folder: JournalStorage(JournalFileBackend(str(folder / "a.journal"))),
    "database": lambda folder: RDBStorage(f"sqlite:///{folder / 'a.db'}"),
}


@pytest.fixture(params=STORAGES)
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = STORAGES[request.param](tmp_path)
    optuna.create_study(storage=storage, study_name="s")
    yield kept_study("s", storage)
    close(storage)


def test_no_private_name_is_used() -> None:
    private = re.compile(r"\b(optuna|study|trial|t|storage|kept|held|backend|sampler)\._[a-z]\w*")
    files = [ROOT / "prunopt" / "search", ROOT / "solvers", ROOT / "problems", ROOT / "prunopt" / "testing"]
    found = [
        f"{file.name}: {match[0]}"
        for folder in files
        for file in folder.rglob("*.py")
        for match in private.finditer(file.read_text("utf-8"))
    ]
    assert not found


def test_a_study_is_made_of_a_name_and_a_storage(study: Any) -> None:
    assert isinstance(study, optuna.Study)
    assert study.study_name == "s"
    study.enqueue_trial({})
    assert len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,))) == 1


def test_a_running_trial_is_created_with_its_worker_in_it(study: Any) -> None:
    """`create_trial(state=RUNNING)`, `create_new_trial(template_trial=)`: at no moment is it without a worker."""
    template = create_trial(state=TrialState.RUNNING, user_attrs={"worker": "me"})
    found = study.kept.create_new_trial(study.kept.get_study_id_from_name("s"), template_trial=template)
    (held,) = study.get_trials()
    assert (held.state, held.user_attrs, held.number) == (TrialState.RUNNING, {"worker": "me"}, 0)
    assert held.datetime_start is not None
    assert study.trial_id(0) == found
    study.kept.set_trial_user_attr(found, "beat", 1.5)
    assert study.get_trials()[0].user_attrs["beat"] == 1.5


def test_a_trial_is_made_of_a_study_and_an_id(study: Any) -> None:
    found = study.kept.create_new_trial(study.kept.get_study_id_from_name("s"))
    trial = optuna.Trial(study, found)
    assert trial.suggest_categorical("c", ("a", "b")) in ("a", "b")
    assert 0 <= trial.suggest_float("x", 0.0, 1.0) <= 1
    assert study.tell(trial, 1.0).params.keys() == {"c", "x"}


def test_a_queued_trial_is_taken_by_one(study: Any, tmp_path: Path) -> None:
    """`set_trial_state_values(RUNNING)` is False, or an error, for all workers that come later."""
    in_memory = isinstance(study.kept, InMemoryStorage)
    later = (
        study.kept if in_memory else STORAGES["journal" if any(tmp_path.glob("*.journal")) else "database"](tmp_path)
    )
    study.enqueue_trial({"x": 0.25})
    found = study.trial_id(0)
    assert study.kept.set_trial_state_values(found, state=TrialState.RUNNING) is True
    assert later.set_trial_state_values(found, state=TrialState.RUNNING) is False
    study.tell(0, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        later.set_trial_state_values(found, state=TrialState.RUNNING)
    if not in_memory:
        close(later)


def test_an_ended_trial_is_not_ended_again(study: Any) -> None:
    study.tell(study.ask(), state=TrialState.FAIL)
    with pytest.raises(ValueError, match="FAIL"):
        study.tell(0, state=TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study.kept.set_trial_user_attr(study.trial_id(0), "lost", "late")


class Proposing(optuna.samplers.BaseSampler):
    """Says 0.75 for x."""

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return {"x": 0.75}

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        raise AssertionError("every gene is proposed")


def test_a_queued_point_goes_before_what_a_sampler_proposes(study: Any) -> None:
    study.sampler = Proposing()
    study.enqueue_trial({"x": 0.25})
    assert [study.ask().suggest_float("x", 0.0, 1.0) for _ in range(2)] == [0.25, 0.75]


def test_tell_forgets_what_was_read_before(study: Any) -> None:
    """A sampler that reads by the study's cache (TPE) sees what other workers have finished since the last trial."""

    def drawn(by: Any) -> float:  # what a search does in place of `ask`
        running = create_trial(state=TrialState.RUNNING)
        by.sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=1, constant_liar=False)
        found = by.kept.create_new_trial(by.kept.get_study_id_from_name("s"), template_trial=running)
        value = optuna.Trial(by, found).suggest_float("x", 0.0, 1.0)
        by.tell(optuna.Trial(by, found), state=TrialState.FAIL)
        return float(value)

    def run(by: Any, x: float) -> None:
        by.enqueue_trial({"x": x})
        trial = by.ask()
        by.tell(trial, trial.suggest_float("x", 0.0, 1.0))

    other = kept_study("s", study.kept)
    run(study, 0.9)
    run(study, 0.8)
    before = drawn(study)
    run(study, 0.7)
    for x in (0.1, 0.2, 0.3):
        run(other, x)
    found = drawn(study)
    assert found == drawn(kept_study("s", study.kept))
    assert found != before


def test_a_journal_is_lines_of_json_with_op_codes(tmp_path: Path) -> None:
    """`prunopt.study.journal.check` reads them."""
    storage = STORAGES["journal"](tmp_path)
    study = optuna.create_study(storage=storage)
    study.tell(study.ask(), 1.0)
    lines = (tmp_path / "a.journal").read_text("utf-8").splitlines(keepends=True)
    assert all(line.endswith("\n") and "op_code" in json.loads(line) for line in lines)
    assert len(lines) >= 3


def test_the_lock_of_a_journal_is_a_file_beside_it(tmp_path: Path) -> None:
    """`prunopt.study.journal.Lock` takes the same file, so that other programs keep out."""
    (tmp_path / "a.journal").touch()
    lock = JournalFileOpenLock(str(tmp_path / "a.journal"))
    assert lock.acquire()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.journal", "a.journal.lock"]
    lock.release()
    assert [f.name for f in tmp_path.iterdir()] == ["a.journal"]


def test_a_database_gives_its_connections_back(tmp_path: Path) -> None:
    storage = STORAGES["database"](tmp_path)
    optuna.create_study(storage=storage)
    storage.remove_session()
    storage.engine.dispose()
    assert storage.engine.pool.checkedin() == 0
