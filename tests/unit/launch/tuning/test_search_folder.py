from pathlib import Path

import pytest
from search_folders import evaluate, search_in

from data_pipelines.errors import UserError
from launch.tuning.search import Search


def test_a_search_is_found_again_and_may_grow_but_never_shrinks(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    begun = search_in(folder, trials=8)
    assert Search.open(folder) == begun
    assert search_in(folder, trials=12).asked.trials == 12
    assert search_in(folder, trials=3).asked.trials == 12
    assert [run.path.name for run in Search.open(folder).all_trials][::11] == ["trial_000", "trial_011"]
    assert begun.number_of(begun.trial(7)) == 7


def test_another_search_in_the_same_folder_is_refused_with_what_differs(tmp_path: Path) -> None:
    search_in(tmp_path / "search")
    with pytest.raises(UserError, match=r"other values of space, seed"):
        search_in(tmp_path / "search", space=("optim.lr=1..2",), seed=3)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="holds other files"):
        search_in(tmp_path)
    with pytest.raises(UserError, match="there is no search here"):
        Search.open(tmp_path)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    search_in(tmp_path / "search")
    (tmp_path / "search" / "search.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        Search.open(tmp_path / "search")


def test_values_leave_out_the_first_weights_and_count_a_repeated_step_once(tmp_path: Path) -> None:
    search = search_in(tmp_path / "search")
    run = search.trial(0)
    for step, value in ((0, 0.9), (10, 0.1), (20, 0.2), (20, 0.2), (30, 0.3)):
        evaluate(run, step, value)
    assert search.values(run) == {10: 0.1, 20: 0.2, 30: 0.3}
    assert search.values(search.trial(1)) == {}
