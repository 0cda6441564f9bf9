from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.loading.prefetching_batches import Batch
from trainer.config.schema import Config
from trainer.profiling.bench import Bench


def bench(rows: int) -> Bench:
    process = SimpleNamespace(device=torch.device("cpu"))
    parts = SimpleNamespace(engine=SimpleNamespace(micro_batch=rows))
    return Bench(Config(), process, parts)  # type: ignore[arg-type]


@given(rows=st.integers(4, 300), fixed=st.floats(0, 10), each=st.floats(0.01, 1))
def test_the_time_that_does_not_depend_on_the_rows_is_found_for_any_number_of_them(rows, fixed, each) -> None:
    found = bench(rows).independent_of_rows(fixed + each * rows, fixed + each * (rows // 2))
    assert found == pytest.approx(fixed, abs=1e-6)


def test_rows_that_are_cheaper_in_small_batches_leave_no_overhead() -> None:
    assert bench(8).independent_of_rows(8.0, 3.0) == 0


@pytest.mark.parametrize(("rows", "fewer"), [(8, 4), (5, 2), (4, 2), (3, 3), (2, 2)])
def test_half_of_the_rows_are_taken_unless_batch_norm_would_have_one(rows: int, fewer: int) -> None:
    batch = Batch([torch.arange(rows)] * 2, torch.arange(rows), torch.arange(rows))
    (found,) = bench(rows).fewer_rows([batch])
    assert [len(t) for t in (*found.views, found.labels, found.ids)] == [fewer] * 4
    if fewer == rows:
        assert bench(rows).independent_of_rows(1.0, 1.0) == 0
