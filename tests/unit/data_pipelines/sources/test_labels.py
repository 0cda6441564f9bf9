from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.sources.labels import read_labels

Devkit = Callable[..., Path]
FILES = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (2, 3, 1)]
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize("unpacked", [False, True])
def test_a_devkit_names_the_images_in_the_order_of_their_names(
    devkit: Devkit, tmp_path: Path, unpacked: bool
) -> None:
    packed = devkit(truth="3\n1\n3\n")
    labels = read_labels(tmp_path / TRUTH if unpacked else packed, FILES)
    assert [labels.class_of[name] for name in sorted(FILES)] == ["n03", "n02", "n03"]
    assert labels.classes == ("n01", "n02", "n03"), "synsets with children are no classes"


def test_a_devkit_of_one_class(devkit: Devkit) -> None:
    assert read_labels(devkit(truth="7", synsets=[(7, "n42", 0)]), ["a"]).class_of == {"a": "n42"}


def test_lines_of_files_and_classes(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("2.JPEG 7\n1.JPEG bee\n\n9.JPEG unused\n")
    labels = read_labels(path, ["1.JPEG", "2.JPEG"])
    assert labels.classes == ("7", "bee"), "only classes of these images"
    assert (labels.class_of["1.JPEG"], labels.class_of["2.JPEG"]) == ("bee", "7")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1.JPEG bee", "1 image has no label, such as '2.JPEG'"),
        ("1.JPEG a b", "labels.txt:1: not a file and a class"),
        ("\n\n", "2 images have no label"),
        ("1\n2", r"meta\.mat with their names cannot be read beside it[\s\S]*tar\.gz"),
    ],
)
def test_wrong_text_files_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(lines)
    with pytest.raises(UserError, match=message):
        read_labels(path, ["1.JPEG", "2.JPEG"])


@pytest.mark.parametrize(
    ("kit", "message"),
    [
        ({"truth": "1\n2\n"}, "the ground truth has 2 lines, but the source has 3 images"),
        ({"truth": "1\n4\n2\n"}, "line 2 of the ground truth is '4', which is not a class id"),
        ({"truth": "1\nx\n2\n"}, "line 2 of the ground truth is 'x'"),
        (
            {"truth": None},
            r"not a devkit of ILSVRC2012: it contains no data/ILSVRC2012_validation_ground_truth\.txt",
        ),
        ({"truth": "1\n1\n1\n", "meta": None}, r"it contains no data/meta\.mat"),
        ({"truth": "1\n1\n1\n", "meta": b"no matlab"}, r"meta\.mat does not list the synsets"),
    ],
)
def test_wrong_devkits_are_refused(devkit: Devkit, kit: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labels(devkit(**kit), FILES)


def test_a_devkit_that_is_cut_is_refused(devkit: Devkit) -> None:
    path = devkit(truth="3\n1\n3\n" * 4000)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="the devkit cannot be read"):
        read_labels(path, FILES)


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff")]
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "labels")
    with pytest.raises(UserError, match="the label file cannot be read"):
        read_labels(tmp_path / "labels", FILES)
