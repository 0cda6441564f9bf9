import pytest

from data_pipelines.errors import UserError
from trainer.config.resume_compat import fingerprint, refuse_changed_training
from trainer.config.schema import load_config, parse


def test_meaning_is_what_resume_may_not_change() -> None:
    before = load_config("cifar10")
    free = load_config(
        "cifar10",
        [
            "data.decode_threads=7",
            "checkpoint.keep_last=9",
            "eval.every_epochs=1",
            "run.name=other",
            "guard.stall_seconds=0",
            "guard.check_replicas_every=7",
            "parallel.zero_stage=2",
        ],
    )
    refuse_changed_training(before, free)
    assert fingerprint(before) == fingerprint(free)
    changed = load_config("cifar10", ["optim.lr=0.5", "data.views.0.blur=0.3"])
    assert fingerprint(before) != fingerprint(changed)
    with pytest.raises(UserError) as error:
        refuse_changed_training(before, changed)
    assert "optim.lr: 1.0 -> 0.5" in str(error.value)
    assert "data.views" in str(error.value)


def test_older_checkpoints_stay_of_use() -> None:
    """A new setting must stand in CAME_LATER; a new default is another meaning, which nothing excuses."""
    assert fingerprint(parse({}, where="defaults")) == "a040eac4eadce17c"
    assert fingerprint(parse({"method": {"symmetric": False}}, where="another")) != "a040eac4eadce17c"


def test_settings_that_follow_the_published_code_are_another_training() -> None:
    of = {
        "optim.peak_lr_at": parse({"optim": {"peak_lr_at": "end_of_warmup"}}, where="a"),
        "method.classifier_views": parse({"method": {"classifier_views": "global"}}, where="b"),
        "backbone.stem": parse({"backbone": {"stem": "padded"}}, where="c"),
    }
    before = parse({}, where="defaults")
    assert len({fingerprint(before), *map(fingerprint, of.values())}) == 4
    for key, config in of.items():
        with pytest.raises(UserError, match=key):
            refuse_changed_training(before, config)
