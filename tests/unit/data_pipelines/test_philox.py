import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.philox import RandomStream, permutation, philox, uniforms

seeds = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [  # the known answers of the Random123 distribution
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(key: tuple[int, int], counter: tuple[int, ...], words: tuple[int, ...]) -> None:
    assert tuple(philox(key, counter)) == words


@given(
    seed=seeds,
    epoch=st.integers(0, 2**32 - 1),
    item=st.integers(0, 2**32 - 1),
    lane=st.integers(0, 2**16 - 1),
)
def test_a_row_does_not_depend_on_the_others(seed: int, epoch: int, item: int, lane: int) -> None:
    def draw(items: list[int], count: int) -> np.ndarray:
        return uniforms(seed, RandomStream.VIEWS, epoch=epoch, items=items, lane=lane, count=count)

    alone = draw([item], 7)[0]
    np.testing.assert_array_equal(draw([1, item, 2], 7)[1], alone)
    np.testing.assert_array_equal(draw([item], 19)[0, :7], alone)
    assert ((alone >= 0) & (alone < 1)).all()


def test_every_part_of_the_name_matters() -> None:
    base = {"seed": 1, "stream": RandomStream.VIEWS, "epoch": 2, "items": [3], "lane": 4, "count": 4}
    changes = [
        {},
        {"seed": 2},
        {"seed": 1 + 2**32},
        {"stream": RandomStream.SAMPLES},
        {"epoch": 3},
        {"items": [4]},
        {"lane": 5},
    ]
    rows = set()
    for change in changes:
        named = base | change
        rows.add(tuple(uniforms(named.pop("seed"), named.pop("stream"), **named)[0]))
    assert len(rows) == len(changes)


def test_numbers_are_uniform() -> None:
    numbers = uniforms(5, RandomStream.VIEWS, epoch=0, items=np.arange(10_000), lane=0, count=4)
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 0.015
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.05


@given(seed=seeds, count=st.integers(0, 200))
def test_permutation_holds_each_item_once(seed: int, count: int) -> None:
    items = np.arange(count) * 3
    assert sorted(permutation(seed, RandomStream.SAMPLES, epoch=0, items=items).tolist()) == items.tolist()
