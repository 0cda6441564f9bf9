"""What counts as a sign of a step."""

from pathlib import Path

import pytest

from launch.status.attempt_facts import read_facts
from launch.status.ledger import read_attempts
from trainer.runs.records import append_record, read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.saved_progress import FELL_BACK, SURVIVED


@pytest.mark.parametrize("event", [SURVIVED, FELL_BACK])
def test_the_save_of_a_survivor_is_no_sign_of_a_step(tmp_path: Path, event: str) -> None:
    run = RunFolder(tmp_path)
    run.config.write_text("train:\n  global_batch: 64\n")

    def note(event: str, at: float, **values: object) -> None:
        append_record(run.ledger, {"event": event, "time": at, "attempt": 1, **values})

    note("start", 100.0, world_size=2, last_recorded=None)
    note("ready", 103.0, step=0, total_steps=50, replayed=0)
    note("stepped", 104.0, step=1)
    note(event, 131.5, step=20)
    note("end", 132.0, reason="killed", saved=20)
    history = read_attempts(run, running=False, saved=20)
    (facts,) = read_facts(read_ledger(run.ledger), history)
    # The ranks stopped at 130 s, as the newest record of the metrics tells.
    assert facts.last_sign(None, 130.0) == 130.0
