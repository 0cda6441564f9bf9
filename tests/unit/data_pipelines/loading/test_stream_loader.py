import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipelines.errors import UserError
from data_pipelines.loading.prefetching_batches import Batch
from data_pipelines.loading.stream_loader import StreamLoader, StreamSet
from data_pipelines.settings import DataSettings, ViewSettings

VIEWS = (ViewSettings(size=16), ViewSettings(size=24, solarize_prob=0.2))


def settings(train: str, **changes: Any) -> DataSettings:
    given = {
        "train": train,
        "reader": "stream",
        "stream": {"samples": 90, "classes": 3, "buffer": 30},
        "views": VIEWS,
        "executor": "opencv",
        "threads": 2,
    }
    return DataSettings.model_validate(given | changes)


def urls(folder: Path) -> str:
    return f"{folder}/shard-{{000000..000003}}.tar"


def take(config: DataSettings, count: int, start: int = 0, **changes: Any) -> list[Batch]:
    given = {"seed": 5, "rank": 0, "world_size": 1, "global_batch": 24, "device": torch.device("cpu")}
    with StreamLoader(StreamSet(config), config, **(given | changes)) as loader:
        return list(islice(loader.batches(start), count))


def test_batches_of_the_promised_form_without_end(whole_set: Path) -> None:
    batches = take(settings(urls(whole_set)), 12)
    for number, batch in enumerate(batches):
        assert [view.shape for view in batch.views] == [(24, 3, 16, 16), (24, 3, 24, 24)]
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.views)
        assert batch.ids.tolist() == list(range(24 * number, 24 * number + 24))
    assert set(torch.cat([batch.labels for batch in batches]).tolist()) == {0, 1, 2}


def test_the_same_start_gives_the_same_samples_and_ranks_differ(whole_set: Path) -> None:
    config = settings(urls(whole_set))
    one, again = take(config, 3), take(config, 3)
    assert all(torch.equal(a.views[0], b.views[0]) for a, b in zip(one, again, strict=True))
    first, second = (take(config, 2, rank=rank, world_size=2) for rank in (0, 1))
    assert [len(batch.ids) for batch in first] == [12, 12]
    assert not torch.equal(first[0].views[0], second[0].views[0])
    assert set(first[0].ids.tolist()).isdisjoint(second[0].ids.tolist())
    assert not torch.equal(take(config, 1, start=1)[0].views[0], one[1].views[0]), "a resume draws anew"


def test_an_epoch_is_what_the_settings_say(whole_set: Path) -> None:
    config = settings(urls(whole_set))
    stream = StreamSet(config)
    assert (len(stream), stream.num_classes, stream.classes) == (90, 3, ("0", "1", "2"))
    with StreamLoader(
        stream, config, seed=0, rank=0, world_size=1, global_batch=24, device=torch.device("cpu")
    ) as loader:
        assert loader.steps_per_epoch == 3


def test_a_shell_command_runs_only_where_it_is_allowed(whole_set: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    command = f"pipe:touch {seen}; cat {whole_set}/shard-000000.tar"
    with pytest.raises(UserError, match=r"shell command[\s\S]*allow_pipe"):
        take(settings(command), 1)
    assert not seen.exists()
    assert len(take(settings(command, allow_pipe=True), 1)[0].ids) == 24
    assert seen.exists()


def test_a_broken_shard_and_broken_samples_are_passed_over(whole_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(whole_set, folder)
    (folder / "shard-000001.tar").write_bytes(b"no tar" * 1000)
    (folder / "shard-000002.tar").unlink()
    assert len(take(settings(urls(folder)), 4)) == 4


def test_labels_outside_the_classes_are_quarantined(whole_set: Path, tmp_path: Path) -> None:
    config = settings(
        urls(whole_set), stream={"samples": 90, "classes": 2, "buffer": 30}, max_bad_fraction=1.0
    )
    file = tmp_path / "quarantine.jsonl"
    batches = take(config, 6, quarantine=file)
    assert set(torch.cat([batch.labels for batch in batches]).tolist()) == {0, 1}
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert entries
    assert all("label 2 is outside the 2 classes" in entry["reason"] for entry in entries)
    assert all(entry["shard"].endswith(".tar") and entry["key"].startswith("image-") for entry in entries)


def test_without_classes_labels_are_not_read(whole_set: Path) -> None:
    config = settings(urls(whole_set), stream={"samples": 90, "buffer": 30})
    assert set(take(config, 1)[0].labels.tolist()) == {-1}


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_nothing_to_read_is_told(tmp_path: Path, what: str) -> None:
    if what == "empty":
        for number in range(4):
            (tmp_path / f"shard-{number:06d}.tar").write_bytes(b"")
    with pytest.raises(UserError, match="no shard can be read"):
        take(settings(urls(tmp_path)), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stream": {"samples": 0}}, "stream.samples must be set"),
        ({"validation": "somewhere"}, "validation must be null"),
        ({"stream": {"samples": 90, "sample": 1}}, "sample"),
    ],
)
def test_wrong_settings_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings("x.tar", **changes)


def test_an_epoch_below_a_batch_is_told(whole_set: Path) -> None:
    with pytest.raises(UserError, match="below one global batch"):
        take(settings(urls(whole_set)), 1, global_batch=96)
