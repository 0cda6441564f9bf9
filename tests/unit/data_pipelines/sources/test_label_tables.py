from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.sources.labels import Labels, read_labels

FILES = ["a 0.jpg", "sub/1.jpg", "sub/deep/2.png"]
EXPECTED = {"a 0.jpg": "owl", "sub/1.jpg": "ant", "sub/deep/2.png": "owl"}


def read(tmp_path: Path, text: str | bytes, name: str = "labels.txt", **options: object) -> Labels:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(path, FILES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "a 0.jpg owl\nsub/1.jpg ant\nsub/deep/2.png owl\n"),
        ("labels.txt", b"\xef\xbb\xbfa 0.jpg owl\r\n1.jpg ant\r\n\r\n2.png owl\r\n"),
        ("labels.txt", "a 0.jpg\towl\n1.jpg\tant\ndeep/2.png\towl\n"),
        ("labels.csv", "a 0.jpg,owl\n1.jpg,ant\n2.png,owl\n"),
        ("labels.csv", "image,label\na 0.jpg,owl\n1.jpg,ant\n2.png,owl\n"),
        ("labels.csv", b"\xef\xbb\xbfImageId,PredictionString\r\na 0,owl\r\n1,ant\r\n2,owl\r\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\na 0,owl 85 1 499 272 owl 131 0 499 254 \n1,ant 0 -1 2.5 3 \n2,owl 1 2 3 4\n",
        ),
        ("labels.csv", 'id,label,file\n7,owl,"a 0.jpg"\n8,ant,./sub/1.jpg\n9,owl,sub/deep/2.png\n'),
        ("labels.txt", "file;label\na 0.jpg;owl\n1.jpg;ant\n2.png;owl\n"),
        (
            "val_annotations.txt",
            "a 0.jpg\towl\t0\t0\t62\t5.5\n1.jpg\tant\t1\t2\t3\t4\n2.png\towl\t1\t2\t3\t4\n",
        ),
    ],
)
def test_tables_and_lines(tmp_path: Path, name: str, text: str | bytes) -> None:
    labels = read(tmp_path, text, name)
    assert labels.class_of == EXPECTED
    assert labels.classes == ("ant", "owl")
    assert labels.notes == ()


def test_a_column_by_its_name(tmp_path: Path) -> None:
    text = "file,kind,genus\na 0.jpg,owl,x y\n1.jpg,ant,z\n2.png,owl,x y\n"
    with pytest.raises(
        UserError, match=r"column with the class cannot be found.*'file', 'kind', 'genus'\n.*--label"
    ):
        read(tmp_path, text, "labels.csv")
    assert read(tmp_path, text, "labels.csv", column="genus").classes == ("x y", "z")
    with pytest.raises(UserError, match=r"Looked for sort\. The first line: 'file', 'kind', 'genus'"):
        read(tmp_path, text, "labels.csv", column="sort")
    with pytest.raises(UserError, match="has no columns"):
        read(tmp_path, "a 0.jpg owl\n1.jpg ant\n2.png owl\n", column="label")


def test_numbers_are_sorted_as_text_or_by_value(tmp_path: Path) -> None:
    text = "a 0.jpg 10\n1.jpg 9\n2.png 10\n"
    assert read(tmp_path, text).classes == ("10", "9")
    assert read(tmp_path, text, numeric=True).classes == ("9", "10")
    with pytest.raises(UserError, match=r"--numeric-classes: the class 'ant' is not a number"):
        read(tmp_path, text.replace("9", "ant"), numeric=True)


def test_lines_without_an_image_are_counted(tmp_path: Path) -> None:
    labels = read(tmp_path, "a 0.jpg owl\n1.jpg ant\n2.png owl\n3.png bee\n")
    assert labels.classes == ("ant", "owl")
    assert labels.notes == (f"1 lines of {tmp_path / 'labels.txt'} name no image of the source",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "l.txt",
            "a 0.jpg owl\n1.jpg ant\n1.jpg bee\n2.png owl",
            r"txt:3: '1\.jpg' has the classes 'ant' and 'bee'",
        ),
        (
            "l.txt",
            "a 0.jpg owl\n1.jpg red ant\n2.png owl",
            r"l\.txt:2: not a file and a class.*\n.*needs a CSV file",
        ),
        ("l.csv", "a 0.jpg,owl\n1.jpg,\n2.png,owl", r"l\.csv:2: not a file and a class: '1\.jpg,'"),
        ("l.csv", "x.jpg,owl\ny.jpg,owl", r"no line names an image of the source, such as 'y\.jpg'"),
        ("l.csv", "a 0.jpg,owl\n1.jpg,ant", r"1 image has no label, such as 'sub/deep/2\.png'"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, name)


def test_the_same_name_in_two_folders_needs_its_path(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("1.jpg owl\n")
    with pytest.raises(UserError, match=r"2 images have no label.*\n.*several have the same name"):
        read_labels(path, ["a/1.jpg", "b/1.jpg"])
    path.write_text("a/1.jpg owl\nb/1.jpg ant\n")
    assert read_labels(path, ["x/a/1.jpg", "x/b/1.jpg"]).class_of == {"x/a/1.jpg": "owl", "x/b/1.jpg": "ant"}


def test_boxes_of_several_classes_are_refused(tmp_path: Path) -> None:
    text = "ImageId,PredictionString\na 0,owl 8 1 9 2 ant 1 0 9 4\n1,ant 0 1 2 3\n2,owl 1 2 3 4\n"
    with pytest.raises(UserError, match=r"labels\.csv:2: 'a 0' has boxes of several classes: ant, owl"):
        read(tmp_path, text, "labels.csv")


def test_a_class_with_numbers_in_its_name_is_no_box(tmp_path: Path) -> None:
    text = "file,label\na 0.jpg,mark 1 2 3 4\n1.jpg,ant\n2.png,mark 1 2 3 4\n"
    assert read(tmp_path, text, "labels.csv").classes == ("ant", "mark 1 2 3 4")
