import time

import pytest
import torch

from trainer.profiling.timeline import Span, Timeline, own_time


def test_own_time_leaves_out_what_is_inside() -> None:
    spans = [
        Span("step", 0, 10),
        Span("forward", 1, 5),
        Span("heads", 2, 3),
        Span("heads", 3, 4),
        Span("backward", 5, 9),
        Span("gathers", 6, 7),
        Span("step", 10, 12),
        Span("forward", 10, 12),
    ]
    assert own_time(spans) == {"step": 2, "forward": 4, "heads": 2, "backward": 3, "gathers": 1}


def test_the_parts_of_nested_spans_add_up_to_the_whole() -> None:
    timeline = Timeline(torch.device("cpu"))
    timeline.on = True
    with timeline.span("step"):
        for _ in range(3):
            with timeline.span("outer"), timeline.span("inner"):
                time.sleep(0.001)
    spans = timeline.spans()
    assert [span.name for span in spans] == ["step", *["outer", "inner"] * 3]
    assert sum(own_time(spans).values()) == pytest.approx(spans[0].end - spans[0].start)


def test_some_spans_keep_what_is_inside() -> None:
    spans = [Span("step", 0, 10), Span("reduction", 2, 8), Span("gathers", 3, 7), Span("gathers", 8, 9)]
    assert own_time(spans, whole={"reduction"}) == {"step": 3, "reduction": 6, "gathers": 1}


def test_a_timeline_that_is_off_collects_nothing() -> None:
    timeline = Timeline(torch.device("cpu"))
    with timeline.span("step"):
        pass
    assert timeline.spans() == []


def test_a_span_that_fails_is_still_closed() -> None:
    timeline = Timeline(torch.device("cpu"))
    timeline.on = True
    with pytest.raises(ValueError), timeline.span("step"):
        raise ValueError
    assert [span.name for span in timeline.spans()] == ["step"]
