import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.distributed import objects
from trainer.distributed.collectives import rank
from trainer.distributed.objects import all_gather_object, broadcast_object, broadcast_tensors

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_json_can_hold_arrives_unchanged(value: object) -> None:
    assert objects._decoded(objects._encoded(value)) == value


@given(st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\0")))
def test_any_path_arrives_unchanged(name: str) -> None:
    path = Path(name.encode("latin-1").decode("utf-8", "surrogateescape"))
    assert objects._decoded(objects._encoded({"p": [path]})) == {"p": [path]}


def test_an_error_arrives_with_its_place_and_its_fix() -> None:
    sent = UserError("is broken", where=Path("a/b"), fix="mend it")
    came = objects._decoded(objects._encoded([None, sent]))[1]
    assert (str(came), came.what, came.fix) == (str(sent), sent.what, sent.fix)


def test_anything_else_is_refused_and_a_pickle_is_not_read() -> None:
    with pytest.raises(TypeError, match="cannot exchange a set"):
        objects._encoded({1, 2})
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
        objects._decoded(pickle.dumps({"a": 1}))


def exchange() -> list[Any]:
    """What a rank gets from three exchanges."""
    own: object = UserError("no data", fix="wait") if rank() else "é" * 1000
    gathered = [str(value) for value in all_gather_object(own)]
    weights = torch.arange(6.0).reshape(2, 3).t() if rank() == 0 else torch.zeros(1)  # not contiguous
    tensors = broadcast_tensors({"w": weights, "same": weights})
    return [
        gathered,
        broadcast_object([rank(), Path("x")]),
        broadcast_object(None),
        tensors,
        broadcast_tensors({}),
    ]


def test_all_ranks_get_the_same(run_ranks: Callable[..., list[list[Any]]]) -> None:
    for gathered, sent, nothing, tensors, no_tensors in run_ranks(exchange, 3):
        assert gathered == ["é" * 1000, "no data\n  fix: wait", "no data\n  fix: wait"]
        assert sent == [0, Path("x")]
        assert nothing is None
        assert isinstance(tensors["w"], Tensor)
        assert tensors["w"].equal(torch.arange(6.0).reshape(2, 3).t())
        assert tensors["same"].equal(tensors["w"])
        assert no_tensors == {}
