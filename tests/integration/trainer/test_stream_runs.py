"""A run on WebDataset URLs without an index."""

import math

STREAM = (
    "data.reader=stream",
    "data.stream.samples=1500",
    "data.stream.classes=10",
    "data.stream.buffer=500",
)


def test_a_run_on_a_stream_learns_and_says_that_it_is_not_exact(runs, digits) -> None:
    url = f"data.train={digits}/train/shard-{{000000..000000}}.tar"
    given = ["data.validation=null", url, *STREAM]
    first = runs.train("stream", *given, "train.max_steps=8")
    assert first.code == 0, first.out
    assert "a resumed run sees other samples" in first.words
    records = [r for r in runs.metrics("stream") if r["kind"] == "train"]
    assert [r["step"] for r in records] == list(range(1, 9))
    assert all(math.isfinite(r["loss"]) for r in records)
    assert "online_top1" in records[0]


def test_knn_during_a_stream_is_refused_with_the_way_to_it(runs, digits) -> None:
    result = runs.train("refused", f"data.train={digits}/train/shard-000000.tar", *STREAM)
    assert result.code == 2
    assert "all4one eval RUN --train SHARDS" in result.words
    assert not runs.path("refused").path.exists()


def test_a_pipe_is_refused_before_a_folder_is_made(runs) -> None:
    result = runs.train("pipe", "data.train=pipe:cat x.tar", "data.validation=null", *STREAM)
    assert result.code == 2
    assert "data.allow_pipe=true" in result.words
    assert not runs.path("pipe").path.exists()
