import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from search_folders import SPACE, evaluate, finish, prune, search_in

from data_pipelines.errors import UserError
from launch.tuning.search import Search
from launch.tuning.search_space import read_space
from launch.tuning.trials import Trials, has_ended

DIMENSIONS = read_space(SPACE)
ASK = """
import sys
from pathlib import Path
from launch.tuning.search import Search
from launch.tuning.search_space import read_space
from launch.tuning.trials import Trials
search, number = Search.open(Path(sys.argv[1])), int(sys.argv[2])
print(*Trials(search, number).ask(number, read_space(search.asked.space)))
"""


def states(search: Search) -> list[str]:
    """Optuna's state of each trial, in the order in which they began."""
    return [one.state.name for one in Trials(search)._study.get_trials()]


def test_a_trial_has_the_same_settings_after_a_kill(tmp_path: Path) -> None:
    search = search_in(tmp_path / "search")
    first = Trials(search, 3).ask(3, DIMENSIONS)
    assert Trials(search, 3).ask(3, DIMENSIONS) == first
    assert states(search) == ["RUNNING"]
    assert Trials(search, 4).ask(4, DIMENSIONS) != first


def test_processes_that_begin_together_get_trials_and_values_of_their_own(tmp_path: Path) -> None:
    search = search_in(tmp_path / "search")
    command = [sys.executable, "-c", ASK, str(search.folder)]
    asking = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(4)]
    given = {one.communicate()[0].strip() for one in asking}
    assert all(one.returncode == 0 for one in asking)
    assert len(given) == 4
    settings = Trials(search).settings()
    assert sorted(settings) == [0, 1, 2, 3]
    assert {f"optim.lr={values['optim.lr']}" for values in settings.values()} == given


def test_ends_that_nobody_has_told_are_told_before_the_next_trial(tmp_path: Path) -> None:
    search = search_in(tmp_path / "search")
    for number in range(4):
        Trials(search, number).ask(number, DIMENSIONS)
    finish(search.trial(0), 0.1, 0.4, 0.3)
    prune(search.trial(1), 10, 0.1)
    evaluate(search.trial(2), 10, 0.2)
    for _ in range(2):
        Trials(search).settle()
        assert states(search) == ["COMPLETE", "PRUNED", "RUNNING", "RUNNING"]
    assert Trials(search)._study.best_value == 0.3
    assert [has_ended(search.trial(number)) for number in range(4)] == [True, True, False, False]


def test_a_failed_trial_that_its_user_resumed_counts(tmp_path: Path) -> None:
    search = search_in(tmp_path / "search", prune=True)
    given = Trials(search, 0).ask(0, DIMENSIONS)
    Trials(search).fail(0)
    Trials(search).fail(0)
    assert states(search) == ["FAIL"]
    assert Trials(search, 0).ask(0, DIMENSIONS) == given  # it is tried again with the same values
    assert not Trials(search, 0).should_stop(0, 1, 0.1)
    finish(search.trial(0), 0.7)
    for _ in range(2):
        Trials(search).settle()
    assert states(search) == ["FAIL", "COMPLETE"]
    assert list(Trials(search).settings()) == [0]


def test_one_in_three_goes_on_after_evaluations_1_and_3(tmp_path: Path) -> None:
    search = search_in(tmp_path / "search", prune=True, trials=9)
    trials = Trials(search)
    for number in range(9):
        trials.ask(number, DIMENSIONS)
    # The better a trial, the later it comes, so that each is the best one so far and goes on.
    assert not any(trials.should_stop(number, 1, number / 10) for number in range(9))
    assert trials.should_stop(0, 2, 0.05) is False  # between the evaluations that count
    late = search_in(tmp_path / "falling", prune=True, trials=9)
    falling = Trials(late)
    stopped = []
    for number in range(9):
        falling.ask(number, DIMENSIONS)
        stopped.append(falling.should_stop(number, 1, 1 - number / 10))
    assert stopped == [False] + [True] * 8


def test_without_pruning_nothing_is_stopped(tmp_path: Path) -> None:
    search = search_in(tmp_path / "search")
    trials = Trials(search)
    for number in range(4):
        trials.ask(number, DIMENSIONS)
        assert not trials.should_stop(number, 1, 1 - number / 10)
    assert not trials.should_stop(7, 1, 0.0)  # it has not begun


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sampler_that_learns_comes_closer_to_the_best_value(tmp_path: Path, sampler: str) -> None:
    search = search_in(tmp_path / sampler, sampler=sampler, trials=40)
    distances = []
    for number in range(40):
        trials = Trials(search, number)
        trials.settle()
        trials.ask(number, DIMENSIONS)
        rate = trials.settings()[number]["optim.lr"]
        distances.append(abs(rate - 1.0))
        finish(search.trial(number), 1 - abs(rate - 1.0))
    late = sum(distances[20:]) / 20
    assert (late < 0.5) == (sampler == "tpe"), late  # by chance: 0.83


def test_without_optuna_one_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"optuna is missing") as error:
        Trials(search_in(tmp_path / "search"))
    assert "all4one[tune]" in str(error.value)


def test_optuna_says_nothing_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    search = search_in(tmp_path / "search")
    Trials(search, 0).ask(0, DIMENSIONS)
    finish(search.trial(0), 0.5)
    Trials(search).settle()
    assert capfd.readouterr() == ("", "")
