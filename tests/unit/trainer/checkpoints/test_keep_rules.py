from pathlib import Path

from checkpoints import names, snapshot
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoints.folder_names import step_and_revision
from trainer.checkpoints.keep_rules import best_step, kept
from trainer.checkpoints.store import CheckpointStore

VALUES = st.floats(0, 1, allow_nan=False)


def folder_of(step: int) -> Path:
    return Path(f"step_{step:08d}")


def steps_of(paths: set[Path]) -> set[int]:
    return {step_and_revision(path)[0] for path in paths}


@given(
    steps=st.lists(st.integers(1, 60), min_size=1, unique=True).map(sorted),
    values=st.dictionaries(st.integers(1, 60), VALUES),
    keep_last=st.integers(1, 5),
    keep_every=st.integers(0, 9),
)
def test_the_best_checkpoint_is_kept_beside_what_the_other_rules_keep(
    steps: list[int], values: dict[int, float], keep_last: int, keep_every: int
) -> None:
    newest, earlier = folder_of(steps[-1]), [folder_of(step) for step in steps[:-1]]
    without = kept(newest, earlier, keep_last=keep_last, keep_every=keep_every)
    found = kept(newest, earlier, keep_last=keep_last, keep_every=keep_every, values=values)
    evaluated = {step: values[step] for step in steps if step in values}
    assert without <= found
    added = steps_of(found) - steps_of(without)
    assert len(added) <= 1
    if not evaluated:
        assert not added
    else:
        best = min(step for step, value in evaluated.items() if value == max(evaluated.values()))
        assert best in steps_of(found)
        assert added <= {best}
        assert best_step(values, steps) == best


@given(
    evaluations=st.lists(st.tuples(st.booleans(), st.none() | VALUES), max_size=40),
    keep_last=st.integers(1, 3),
)
def test_of_a_run_that_saves_each_new_best_value_the_best_of_all_is_kept(
    evaluations: list[tuple[bool, float | None]], keep_last: int
) -> None:
    """Each step is due for a checkpoint or not, and is evaluated after that or not."""
    on_disk, values = list[int](), dict[int, float]()

    def save(step: int) -> None:
        if step in on_disk:
            return
        earlier = [folder_of(one) for one in on_disk]
        chosen = kept(folder_of(step), earlier, keep_last=keep_last, keep_every=0, values=values)
        on_disk[:] = sorted(steps_of(chosen))

    for step, (due, value) in enumerate(evaluations, start=1):
        if due:
            save(step)
        if value is not None:
            values[step] = value
            if best_step(values, [*on_disk, step]) == step:
                save(step)
        if values:
            assert max(values, key=lambda one: (values[one], -one)) in on_disk
        assert len(on_disk) <= keep_last + 1


def test_a_store_keeps_the_best_checkpoint_until_another_one_is_better(tmp_path: Path) -> None:
    values = {1: 0.2, 2: 0.7, 3: 0.4}
    store = CheckpointStore(tmp_path, attempt=1, keep_last=1, values=lambda: values)
    for step in range(1, 6):
        store.write(snapshot(step))
    assert names(tmp_path) == ["latest", "step_00000002", "step_00000005"]
    values[5] = 0.8
    store.write(snapshot(6))
    assert names(tmp_path) == ["latest", "step_00000005", "step_00000006"]
