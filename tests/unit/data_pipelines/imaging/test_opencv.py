from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.imaging.opencv import _tasks


@given(st.integers(0, 5000), st.integers(1, 64))
def test_tasks_cover_each_row_once_and_end_with_single_rows(count: int, threads: int) -> None:
    tasks = _tasks(count, threads)
    assert [row for task in tasks for row in task] == list(range(count))
    sizes = [len(task) for task in tasks]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes, default=1) <= max(1, count // (2 * threads))
    assert sizes[-threads:] == [1] * min(threads, count), "no thread waits for more than one image"


def test_a_large_batch_is_few_tasks() -> None:
    assert len(_tasks(256, 2)) <= 20
