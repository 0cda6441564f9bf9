"""`data reshard`, `merge` and `split` as their users run them; some are killed."""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import Command, Result
from file_server import FileServer
from noise_sets import make_set
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.shards.shard_set import ShardSet


def run(*words: object, **options: object) -> Result:
    """`all4one data`, in a process of its own."""
    return commands.run("data", *words, apart=True, timeout=120, **options)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 400 samples of four classes, about 9 MB."""
    folder = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(0)
    for number in range(400):
        path = folder / "images" / f"class{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (120, 100, 3), dtype=np.uint8)).save(path, quality=95)
    assert run("build", folder / "images", folder / "set", "--shard-samples", 64).code == 0
    return folder / "set"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("small") / "set", 30, ["class1", "new"])


def killed(words: Sequence[object], out: Path, shards: int) -> Path:
    """Output of a command that was killed when it had written so many shards. A command that is done before it is
    noticed begins again."""
    for _ in range(10):
        process = Command("data", *words)
        while len(list(out.rglob("shard-*.tar"))) < shards and process.poll() is None:
            time.sleep(0.001)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        if process.returncode != 0:
            assert len(list(out.rglob("shard-*.tar"))) >= shards, said
            return out
        shutil.rmtree(out)
    pytest.fail("every command ended before it was killed")


@pytest.mark.parametrize(("verb", "kill_at"), [("reshard", 1), ("merge", 20), ("split", 12), ("split", 31)])
def test_a_killed_command_resumes_with_the_same_bytes(
    large: Path, small: Path, tmp_path: Path, verb: str, kill_at: int
) -> None:
    sets = [large, small] if verb == "merge" else [large]
    options = ("--shard-samples", 10, "--workers", 2, "--seed", 3)
    options += ("--fraction", "0.25") if verb == "split" else ()
    straight = run(verb, *sets, tmp_path / "straight", *options)
    assert straight.code == 0, straight.err
    words = (verb, *sets, tmp_path / "out", *options)
    out = killed(words, tmp_path / "out", kill_at)
    with pytest.raises(UserError):
        ShardSet.open(out / "validation" if verb == "split" else out)
    noted = [note.parents[1] / f"shard-{note.stem}.tar" for note in out.rglob(".building/*.json")]
    kept = {path: path.stat().st_ino for path in noted}
    again = run(*words)
    assert again.code == 0, again.err
    assert files(out) == files(tmp_path / "straight")
    assert {path: path.stat().st_ino for path in kept} == kept, "shards with a note are kept"
    finished = run(*words)
    assert finished.code == 2
    assert "contains a finished dataset" in finished.error_words
    assert run(*words, "--overwrite").code == 0
    assert files(out) == files(tmp_path / "straight")


def test_split_writes_two_sets_that_verify(large: Path, tmp_path: Path) -> None:
    done = run("split", large, tmp_path / "out")
    assert done.code == 0, done.err
    for part, count in (("train", 360), ("validation", 40)):
        shards = ShardSet.open(tmp_path / "out" / part)
        assert np.bincount(shards.index["label"]).tolist() == [count // 4] * 4
        assert f"{count} samples, 0 bad" in run("verify", tmp_path / "out" / part, "--decode").out
    both = run("duplicates", tmp_path / "out" / "train", tmp_path / "out" / "validation")
    assert both.code == 0, both.out


@pytest.fixture
def server(large: Path) -> Iterator[FileServer]:
    server = FileServer(large)
    yield server
    server.close()


def test_a_remote_set_is_downloaded_once(
    large: Path, small: Path, server: FileServer, tmp_path: Path
) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = ("merge", server.url, small, tmp_path / "out", "--shard-samples", 50, "--workers", 2)
    done = run(*words, env=env)
    assert done.code == 0, done.err
    assert "the samples of a remote shard stay together" in done.error_words
    parts = [ShardSet.open(folder) for folder in (large, small)]
    merged = ShardSet.open(tmp_path / "out")
    assert sorted(merged.read(sample) for sample in range(430)) == sorted(
        part.read(sample) for part in parts for sample in range(len(part))
    )
    for shard in ShardSet.open(large).record.shards:
        assert server.starts(shard.name) == [0]


def test_changed_samples_are_counted_in_the_summary(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "set")
    path = tmp_path / "set" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[int(ShardSet.open(small).index["offset"][0]) + 20] ^= 1
    path.write_bytes(data)
    done = run("reshard", tmp_path / "set", tmp_path / "out")
    assert done.code == 0, done.err
    words = done.words.replace("│", " ")
    assert "samples 29" in " ".join(words.split())
    assert "CRC differs from the index 1" in " ".join(words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reshard", "none", "out"), "none: there is no such folder"),
        (("reshard", "bare", "out"), "bare: the shards have no index fix: run: all4one data index bare"),
        (("reshard", "set", "set"), "set: the output would lie in the folder of set"),
        (("reshard", "set", "set/new"), "set/new: the output would lie in the folder of set"),
        (("reshard", "set", "s3://bucket/new"), "shards are written to local folders only"),
        (("reshard", "http://127.0.0.1:9/set", "out"), "http://127.0.0.1:9/set/dataset.json: cannot be read"),
        (("merge", "set", "out"), "set: a merge needs two sets or more"),
        (("merge", "set", "set", "out"), "set: the set has the same samples as set"),
        (("merge", "numbers", "more", "out"), "its 3 classes have numbers as names"),
        (("split", "set", "out", "--fraction", "0"), "--fraction: '0' is not a fraction between 0 and 1"),
        (("split", "set", "out", "--fraction", "1"), "'1' is not a fraction between 0 and 1"),
        (("split", "set", "out", "--fraction", "1/0"), "'1/0' is not a fraction between 0 and 1"),
        (("split", "set", "out", "--fraction", "a tenth"), "'a tenth' is not a fraction"),
        (("split", "set", "out", "--fraction", ""), "'' is not a fraction"),
        (("split", "set", "out", "--fraction", "0.1", "--per-class", "2"), "exclude each other"),
        (("split", "set", "out", "--per-class", "15"), "leaves no training sample of class"),
        (("split", "set", "."), ".: the output would lie"),
    ],
)
def test_wrong_words_end_with_one_message_and_write_nothing(
    small: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    shutil.copytree(small, tmp_path / ("train" if words[-1] == "." else "set"))
    (tmp_path / "bare").mkdir()
    shutil.copy(small / "shard-000000.tar", tmp_path / "bare")
    make_set(tmp_path / "numbers", 4, ["0", "1"])
    make_set(tmp_path / "more", 6, ["0", "1", "2"])
    before = files(tmp_path)
    words = tuple("train" if word == "set" and words[-1] == "." else word for word in words)
    result = run(*words, cwd=tmp_path)
    assert result.code == 2, result.out
    assert message in result.error_words
    assert "Traceback" not in result.err
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()
