import json
from pathlib import Path

import pytest
from search_folders import SPACE, evaluate, finish, prune, search_in

from launch.tuning.search_space import read_space
from launch.tuning.trial_table import show, trial_rows
from launch.tuning.trials import Trials


def test_the_best_trials_come_first_with_the_command_that_trains_as_they_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = search_in(tmp_path / "search", trials=6, overrides=("train.epochs=3",))
    for number in range(5):
        Trials(search, number).ask(number, read_space(SPACE))
    finish(search.trial(0), 0.5)
    finish(search.trial(1), 0.4, 0.8)
    prune(search.trial(2), 10, 0.9)
    evaluate(search.trial(3), 10, 0.3)
    search.trial(3).note("start", attempt=1, world_size=1)
    rows = trial_rows(search)
    assert [(Path(row.run).name[-1], row.state, row.value, row.step) for row in rows] == [
        ("1", "finished", 0.8, 20),
        ("0", "finished", 0.5, 10),
        ("2", "pruned", 0.9, 10),
        ("3", "stopped", 0.3, 10),
        ("4", "new", None, 0),
        ("5", "new", None, 0),
    ]
    assert rows[-1].settings == {}
    show(search, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    rate = Trials(search).settings()[1]["optim.lr"]
    assert f"all4one train digits_demo train.epochs=3 optim.lr={rate}" in said
    show(search, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "knn_online"
    assert found["trials"][0]["settings"] == {"optim.lr": rate}
