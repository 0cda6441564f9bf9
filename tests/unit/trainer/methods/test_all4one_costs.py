from typing import Any

import pytest
import torch
from all4one_formula import ONLY_FEATURE, ROWS, SWITCHES, images, make
from torch import Tensor

from trainer.contrast.queue import NeighborQueue, QueueSettings
from trainer.methods.all4one import All4OneSettings


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("published", set()),
        ("no neighbor", {"neighbor_predictor"}),
        ("no centroid", {"centroid_predictor", "transformer"}),
        ("no feature", set()),
        ("only feature", {"neighbor_predictor", "centroid_predictor", "transformer", "queue"}),
        (
            "encoder space that nothing searches",
            {"neighbor_predictor", "centroid_predictor", "transformer", "queue"},
        ),
    ],
)
def test_a_contrast_without_weight_is_not_built(name: str, absent: set[str]) -> None:
    whole = {
        "backbone",
        "projector",
        "neighbor_predictor",
        "centroid_predictor",
        "transformer",
        "momentum",
        "queue",
    }
    assert {n for n, _ in make(name).named_children()} == whole - absent


@pytest.mark.parametrize(
    ("name", "keys", "searches", "online"),
    [
        ("published", [4, 4], [(2, 5)], [4, 4]),
        ("no centroid", [4, 4], [(2, 1)], [4, 4]),
        ("only feature", [4, 4], [], [4, 4]),
        ("one way", [4, 4], [(2, 5)], [4]),
        ("one way, only neighbor", [4], [(1, 1)], [4]),
        ("one way, only neighbor, both views enter", [4, 4], [(1, 1)], [4]),
        ("one way, only feature", [4], [], [4]),
        ("encoder space", [4, 4], [(2, 5)], [4, 4]),
        ("one way, only neighbor, encoder space", [4], [(1, 1)], [4]),
        ("small views", [4, 4], [(2, 5)], [4, 4, 2, 2, 2]),
        ("small views, one way", [4, 4], [(2, 5)], [4, 2, 2, 2]),
    ],
)
def test_nothing_is_computed_that_no_loss_needs(
    name: str,
    keys: list[int],
    searches: list[tuple[int, int]],
    online: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int]] = []
    nearest = NeighborQueue.nearest
    monkeypatch.setattr(
        NeighborQueue, "nearest", lambda q, x, k: calls.append((len(x), k)) or nearest(q, x, k)
    )
    method, seen = make(name), dict[str, list[int]](online=[], momentum=[])
    for part, backbone in method.evaluation_backbones().items():
        backbone.register_forward_hook(lambda m, i, o, part=part: seen[part].append(i[0].shape[-1]))
    method(images(name), torch.full((ROWS,), -1), torch.arange(ROWS))
    assert (seen["momentum"], calls, seen["online"]) == (keys, searches, online)


def messages() -> dict[str, list[tuple[int, ...]]]:
    found = {}
    send = torch.distributed.all_gather_single
    for name in SWITCHES:
        shapes: list[tuple[int, ...]] = []

        def counted(out: Tensor, x: Tensor, shapes: Any = shapes, **options: bool) -> object:
            shapes.append(tuple(x.shape))
            return send(out, x, **options)

        torch.distributed.all_gather_single = counted
        method = make(name).float()
        out = method([x.float() for x in images(name)], torch.full((ROWS,), -1), torch.arange(ROWS))
        out.loss.backward()
        method.after_backward()
        found[name] = shapes
    return found


def test_messages_hold_what_the_contrasts_need_and_no_more(run_ranks) -> None:
    one_view, both_views = (ROWS, 8 + 4), (ROWS, 2 * 8 + 4)  # words of keys, a label and an id
    for found in run_ranks(messages, 2):
        assert found["published"] == [one_view, (ROWS, 4 * 8)]
        assert found["both views enter"] == [both_views, (ROWS, 4 * 8)]
        assert found["encoder space"] == [(ROWS, 8 + 10 + 4), (ROWS, 4 * 8)]  # a key with its features
        assert found["refreshed queue"] == [(ROWS, 8 + 2 + 4), (ROWS, 4 * 8)]  # a key with its nearest row
        assert found["only neighbor"] == found["only centroid"] == [one_view, (ROWS, 2 * 8)]
        assert found["one way"] == [one_view, (ROWS, 2 * 8)]
        assert found["only feature"] == found["one way, only feature"] == []
        assert found["small views"] == [one_view, (ROWS, (5 + 2 + 2 * 3) * 8)]


def test_settings_that_leave_nothing_to_learn_from_are_refused() -> None:
    with pytest.raises(ValueError, match="one of neighbor_weight, centroid_weight and feature_weight"):
        All4OneSettings(**ONLY_FEATURE | {"feature_weight": 0})


def test_what_is_off_restricts_nothing() -> None:
    All4OneSettings(centroid_weight=0, embedding_dim=10)
    All4OneSettings(**ONLY_FEATURE, queue=QueueSettings(size=1))
    assert str(All4OneSettings().num_views) == "at least 2"
    assert str(All4OneSettings(**ONLY_FEATURE).num_views) == "2"
