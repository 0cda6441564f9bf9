"""The commands as their users run them, in processes of their own; some of those are killed."""

import os
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import commands
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from commands import Command, Result, run_program
from typer.testing import CliRunner

from data_pipelines.errors import UserError
from data_pipelines.inspect.verify import verify
from data_pipelines.shards.index import read_record
from data_pipelines.shards.shard_set import ShardSet
from launch.commands.data import app


def run(*words: object) -> Result:
    """`all4one data`, in a process of its own."""
    return commands.run("data", *words, apart=True, timeout=120)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 noisy images of four classes, about 9 MB."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(400):
        path = folder / f"class{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 256, (120, 100, 3), dtype=np.uint8))
    return folder


def invoke(*words: object) -> None:
    """As `run`, in this process; raises what the command raises."""
    CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def build_words(images: Path, out: Path) -> tuple[object, ...]:
    return ("build", images, out, "--shard-samples", 10, "--workers", 2)


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_a_zip_and_a_compressed_tar_make_the_shards_of_their_folder(
    images: Path, tmp_path: Path, kind: str
) -> None:
    archive = shutil.make_archive(str(tmp_path / "images"), kind, images)
    for source, name in ((images, "plain"), (archive, "packed")):
        done = run("build", source, tmp_path / "sets" / name, "--shard-samples", 100)
        assert done.code == 0, done.err
    plain, packed = (ShardSet.open(tmp_path / "sets" / name) for name in ("plain", "packed"))
    assert packed.classes == plain.classes
    assert {packed.read(i) for i in range(400)} == {plain.read(i) for i in range(400)}
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["packed", "plain"]


def caught(
    folder: Path, words: Callable[[Path], Sequence[object]], *, shards: int = 1, part: str = ".", number: int
) -> tuple[Path, int]:
    """Output of a build that a signal ended, and its process group.

    The signal comes when so many shards of a part are there. On a busy machine the build may be done before that is
    noticed: then another one is tried.
    """
    for attempt in range(10):
        out = folder / f"out{attempt}"
        process = Command("data", *words(out))
        while len(list((out / part).glob("shard-*.tar"))) < shards and process.poll() is None:
            time.sleep(0.001)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=60)
        if process.returncode != 0:
            assert list((out / part).glob("shard-*.tar")), said
            return out, process.pid
    pytest.fail("every build ended before it was caught")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_build_index_verify(images: Path, tmp_path: Path) -> None:
    (images / "class0" / "broken.jpg").write_bytes(b"no image")
    try:
        built = CliRunner().invoke(app, [str(word) for word in build_words(images, tmp_path / "out")])
    finally:
        (images / "class0" / "broken.jpg").unlink()
    assert built.exit_code == 0
    for words in (
        "samples 400",
        "classes 4",
        "shards 41",
        "quarantined 1",
        "not a JPEG, PNG or WebP image 1",
    ):
        assert words in " ".join(built.output.replace("│", " ").split())
    assert CliRunner().invoke(app, ["index", str(tmp_path / "out"), "--decode"]).exit_code == 0
    verified = CliRunner().invoke(app, ["verify", str(tmp_path / "out"), "--decode"])
    assert verified.exit_code == 0
    assert "400 samples, 0 bad" in verified.output


def test_verify_exits_with_1_and_names_what_is_wrong(images: Path, tmp_path: Path) -> None:
    run(*build_words(images, tmp_path / "out"))
    shards = ShardSet.open(tmp_path / "out")
    path = tmp_path / "out" / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[int(shards.index["offset"][12]) + 9] ^= 1
    path.write_bytes(data)
    verified = CliRunner().invoke(app, ["verify", str(tmp_path / "out")])
    assert verified.exit_code == 1
    assert f"{shards.key(12)}: CRC differs from the index" in verified.output


def test_errors_pass_through(tmp_path: Path) -> None:
    for words in (
        ["build", str(tmp_path / "none"), str(tmp_path / "out")],
        ["verify", str(tmp_path / "none")],
    ):
        assert isinstance(CliRunner().invoke(app, words).exception, UserError)


def test_digits(tmp_path: Path) -> None:
    result = run("build", "digits", tmp_path / "digits")
    assert result.code == 0, result.err
    assert result.err == "", "no progress bar where there is no terminal"
    for part, count in (("train", 1501), ("validation", 296)):
        shards = ShardSet.open(tmp_path / "digits" / part)
        assert (len(shards), shards.num_classes) == (count, 10)


def test_the_validation_images_of_ilsvrc(tmp_path: Path) -> None:
    """As they are distributed: a tar of images, and the devkit's ids with the table of their names."""
    random = np.random.default_rng(0)
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in (2, 1, 3):
            image = tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG"
            cv2.imwrite(str(image), random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            tar.add(image, image.name)
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    fields = {
        "ILSVRC2012_ID": [1.0, 2.0, 3.0],
        "WNID": ["n03", "n01", "n02"],
        "num_children": [0.0, 0.0, 1.0],
    }
    synsets = np.zeros((3, 1), [(name, object) for name in fields])
    for name, values in fields.items():
        synsets[name][:, 0] = values
    scipy.io.savemat(data / "meta.mat", {"synsets": synsets})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n1\n1\n")
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(data, "ILSVRC2012_devkit_t12/data")
    labels = (tmp_path / "ILSVRC2012_devkit_t12.tar.gz", data / "ILSVRC2012_validation_ground_truth.txt")
    for number, path in enumerate(labels):
        out = tmp_path / str(number)
        invoke("build", tmp_path / "ILSVRC2012_img_val.tar", out, "--labels", path)
        shards = ShardSet.open(out)
        assert shards.classes == ("n01", "n03")
        assert shards.index["label"].tolist() == [1, 1, 1]


def test_images_made_smaller(images: Path, tmp_path: Path) -> None:
    invoke("build", images, tmp_path / "out", "--resize-shorter", 64, "--shard-bytes", 100_000)
    shards = ShardSet.open(tmp_path / "out")
    assert {tuple(size) for size in shards.index[["width", "height"]].tolist()} == {(64, 77)}
    assert all(shard.size <= 100_000 for shard in read_record(tmp_path / "out").shards)
    assert all(not shard.bad for shard in verify(tmp_path / "out", decode=True))


@pytest.fixture
def prepared(images: Path, tmp_path: Path) -> Path:
    """A folder in which torchvision finds Imagenette."""
    for split, number in (("train", 0), ("val", 1)):
        for wnid in ("n01440764", "n02102040"):
            folder = tmp_path / "raw" / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            for path in (images / f"class{number}").iterdir():
                (folder / f"{wnid}_{path.stem}.JPEG").write_bytes(path.read_bytes())
    return tmp_path / "raw"


def test_a_set_of_torchvision_goes_on_after_an_interruption_between_its_parts(
    prepared: Path, tmp_path: Path
) -> None:
    def words(out: Path) -> tuple[object, ...]:
        return ("build", "torchvision:imagenette", out, "--root", prepared, "--shard-samples", 20)

    out, _ = caught(tmp_path, words, part="validation", number=signal.SIGKILL)
    again = run(*words(out))
    assert again.code == 0, again.err
    invoke(*words(tmp_path / "straight"))
    for part in ("train", "validation"):
        assert files(out / part) == files(tmp_path / "straight" / part)
        shards = ShardSet.open(out / part)
        assert (len(shards), shards.classes) == (200, ("n01440764", "n02102040"))
    with pytest.raises(UserError, match="contains a finished dataset"):
        invoke(*words(out))


def test_parquet_files(images: Path, tmp_path: Path) -> None:
    for split, number in (("train", 0), ("validation", 1)):
        data = [path.read_bytes() for path in sorted((images / f"class{number}").iterdir())]
        table = pa.table(
            {"image": [{"bytes": item, "path": None} for item in data], "label": [number] * len(data)}
        )
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "in" / f"{split}-00000-of-00001.parquet", row_group_size=30)
    invoke("build", tmp_path / "in", tmp_path / "out", "--workers", 2, "--shard-samples", 25)
    for part, number in (("train", 0), ("validation", 1)):
        shards = ShardSet.open(tmp_path / "out" / part)
        assert (len(shards), shards.classes) == (100, ("0", "1"))
        assert set(shards.index["label"].tolist()) == {number}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("torchvision:cifra10",), r"did you mean torchvision:cifar10\?"),
        (("torchvision:dtd", "--no-download"), "the dataset cannot be read"),
        (("digits", "--labels", "x.txt"), "leave out --labels"),
    ],
)
def test_sources_that_are_not_there(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        invoke("build", words[0], tmp_path / "out", "--root", tmp_path / "none", *words[1:])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a build that nothing interrupts."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    invoke(*build_words(images, out))
    return files(out)


@pytest.mark.parametrize("kill_at", [1, 17, 39])
def test_a_killed_build_does_not_open_and_goes_on(
    images: Path, undisturbed: dict[str, bytes], tmp_path: Path, kill_at: int
) -> None:
    out, _ = caught(tmp_path, lambda out: build_words(images, out), shards=kill_at, number=signal.SIGKILL)
    with pytest.raises(UserError, match="run the same build command again"):
        ShardSet.open(out)
    assert run("index", out).code == 2, "half a build must not be indexed"
    again = run(*build_words(images, out))
    assert again.code == 0, again.err
    assert files(out) == undisturbed


def test_ctrl_c_ends_a_build_and_its_workers(images: Path, tmp_path: Path) -> None:
    out, group = caught(tmp_path, lambda out: build_words(images, out), number=signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert run(*build_words(images, out)).code == 0


LIMITED = """
import resource
from launch.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
main()
"""
"""The command with a limit on the size of the files that it writes."""


def test_a_file_system_that_takes_no_more_is_told(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("build", images, out, "--shard-samples", 100, "--workers", 2)
    program = tmp_path / "limited.py"
    program.write_text(LIMITED)
    result = run_program(program, "data", *words, apart=True)
    assert result.code == 2
    assert "the disk is full: the shards need" in result.error_words
    assert "Traceback" not in result.err
    assert not list(out.glob("*shard*")), "no temporary file is left"
    assert run(*words).code == 0


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
def test_a_full_disk_is_told(images: Path, small_disk: Path) -> None:
    result = run(*build_words(images, small_disk / "out"))
    assert result.code == 2
    assert "the disk is full: the shards need" in result.error_words
    with pytest.raises(UserError):
        ShardSet.open(small_disk / "out")
