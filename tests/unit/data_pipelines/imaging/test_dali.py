"""Batches that DALI begins while others wait to be taken."""

import gc
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.imaging.augment import center_crop_params
from data_pipelines.imaging.backend import DecodeError
from data_pipelines.imaging.dali import DaliBackend
from data_pipelines.imaging.dali_graph import ViewGraph

SIZE, SIDE = 32, 48
GOOD = 4
STRAY, BROKEN, TEXT = GOOD, GOOD + 1, GOOD + 2
"""Images that DALI refuses and another decoder takes, that no decoder takes, and that is none."""
BAD = (BROKEN, TEXT)
IMAGES = TEXT + 1


@pytest.fixture(scope="module")
def images(picture: Callable[..., np.ndarray], encode: Callable[..., bytes]) -> list[bytes]:
    jpegs = [encode(picture(number, SIDE, SIDE), "JPEG", quality=95) for number in range(GOOD + 2)]
    end_of_app0 = 4 + int.from_bytes(jpegs[STRAY][4:6], "big") - 2 + 2
    jpegs[STRAY] = jpegs[STRAY][:end_of_app0] + bytes(3) + jpegs[STRAY][end_of_app0:]
    counts = jpegs[BROKEN].index(b"\xff\xc4") + 5  # of the codes of each length, which are too many now
    jpegs[BROKEN] = jpegs[BROKEN][:counts] + b"\xff" * 16 + jpegs[BROKEN][counts + 16 :]
    return [*jpegs, b"a text"]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def backend(pool: ThreadPoolExecutor) -> DaliBackend:
    return DaliBackend(
        [ViewGraph(SIZE, color=False, blur=False, solarize=False)],
        pool,
        batch=4,
        threads=1,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def begin(dali: DaliBackend, images: list[bytes], rows: list[int]) -> Callable[[], list[torch.Tensor]]:
    numbers = center_crop_params(np.full((len(rows), 2), SIDE), resize=SIZE, crop=SIZE)
    return dali.begin([images[row] for row in rows], [numbers])


@pytest.fixture(scope="module")
def alone(pool: ThreadPoolExecutor, images: list[bytes]) -> dict[int, torch.Tensor]:
    """View of each usable image, made by itself."""
    dali = backend(pool)
    return {row: begin(dali, images, [row])()[0][0].clone() for row in range(IMAGES) if row not in BAD}


ROWS = st.lists(st.integers(0, IMAGES - 1), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.tuples(ROWS, st.sampled_from(["finish", "finish", "leave"])), max_size=8))
def test_batches_begun_ahead_are_those_of_single_images(
    pool: ThreadPoolExecutor,
    images: list[bytes],
    alone: dict[int, torch.Tensor],
    batches: list[tuple[list[int], str]],
) -> None:
    dali = backend(pool)
    waiting: deque[tuple[list[int], Callable[[], list[torch.Tensor]]]] = deque()
    kept: list[tuple[list[int], torch.Tensor]] = []

    def finish() -> None:
        rows, views = waiting.popleft()
        bad = {place for place, row in enumerate(rows) if row in BAD}
        while True:
            try:
                (made,) = views()
                break
            except DecodeError as error:
                # Those that a look at the header shows are named first.
                refused = set(error.rows)
                assert refused
                assert refused <= bad
                rows = [row for place, row in enumerate(rows) if place not in refused]
                bad = {place for place, row in enumerate(rows) if row in BAD}
                if not rows:
                    return
                views = begin(dali, images, rows)  # while the next batch has begun already
        assert not bad
        kept.append((rows, made))

    for rows, then in batches:
        views = begin(dali, images, rows)
        if then == "leave":
            continue  # as a loader that is told to stop
        waiting.append((rows, views))
        while len(waiting) > dali.ahead:
            finish()
    while waiting:
        finish()
    for rows, made in kept:  # which later batches have not overwritten
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(made, torch.stack([alone[row] for row in rows]))


def test_views_outlive_their_backend(
    pool: ThreadPoolExecutor, images: list[bytes], alone: dict[int, torch.Tensor]
) -> None:
    (made,) = begin(backend(pool), images, [2, 0])()
    gc.collect()
    assert torch.equal(made, torch.stack([alone[2], alone[0]]))
