import pytest
from pydantic import ValidationError

from data_pipelines.errors import UserError
from trainer.config.resume_compat import fingerprint, refuse_changed_training
from trainer.config.schema import load_config
from trainer.config.slurm_settings import SlurmSettings


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90m", 90),
        ("12h", 720),
        ("2d", 2880),
        ("30:00", 30),
        ("30:01", 31),
        ("12:00:00", 720),
        ("12:00:30", 721),
        ("1-06:30", 1830),
        ("1-00:00:00", 1440),
    ],
)
def test_times_are_minutes(text: str, minutes: int) -> None:
    assert SlurmSettings(time=text, signal_lead_seconds=10).minutes == minutes


@pytest.mark.parametrize("text", ["", "soon", "0m", "1:2", "00:00", "5w", 90, 5400])
def test_times_that_cannot_be_told_are_refused(text: object) -> None:
    with pytest.raises(ValidationError, match=r"time|unit"):
        SlurmSettings(time=text)


@pytest.mark.parametrize(("gpus", "tasks", "expected"), [(0, 0, 1), (8, 0, 8), (8, 2, 2), (0, 3, 3)])
def test_one_process_for_each_gpu_unless_said_otherwise(gpus: int, tasks: int, expected: int) -> None:
    settings = SlurmSettings(nodes=2, gpus_per_node=gpus, tasks_per_node=tasks)
    assert (settings.tasks, settings.ranks) == (expected, 2 * expected)


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="below the time limit"):
        SlurmSettings(time="2m", signal_lead_seconds=120)
    with pytest.raises(ValidationError, match=r"tasks_per_node \(5\) must not exceed gpus_per_node \(4\)"):
        SlurmSettings(gpus_per_node=4, tasks_per_node=5)
    with pytest.raises(ValidationError, match="ntasks_per_node"):
        SlurmSettings(extra={"ntasks_per_node": 3})
    with pytest.raises(UserError, match=r"did you mean slurm\.partition"):
        load_config("digits_demo", ["slurm.partitoin=main"])


def test_the_cluster_is_no_part_of_what_is_learned() -> None:
    before = load_config("digits_demo")
    after = load_config("digits_demo", ["slurm.nodes=8", "slurm.extra.mail-type=END", "slurm.time=2d"])
    assert after.slurm.extra == {"mail-type": "END"}
    assert fingerprint(before) == fingerprint(after)
    refuse_changed_training(before, after)


def test_defaults_are_under_the_recipe_and_overrides_over_it() -> None:
    defaults = {"slurm": {"partition": "mine", "account": "me"}}
    config = load_config("digits_demo", ["slurm.partition=other"], defaults)
    assert (config.slurm.partition, config.slurm.account) == ("other", "me")
