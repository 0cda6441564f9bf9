"""The public package: what it gives is what evaluations and the command give."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trained_runs import make_run

import all4one
from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import Item, Source
from trainer.evaluation.evaluators import TEMPERATURE
from trainer.runs.run_folder import RunFolder

NARROW = ("backbone.name=resnet18", "backbone.width=8", "backbone.stem=half", "data.eval_resize=40")
COUNT = 24
CLASSES = ("a", "b", "c")


def pixels(number):
    """An image of its own size, landscape or portrait, smooth enough to be JPEG."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    size = (90 + number, 60) if number % 2 else (50, 70 + number)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def encoded(number, form):
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A labeled set of PNGs."""
    folder = tmp_path_factory.mktemp("shards")
    items = [Item(f"image-{n}", encoded(n, "PNG"), n % 3) for n in range(COUNT)]
    build(Source(items, CLASSES), folder, BuildOptions(shard_samples=10))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return make_run(
        folder, *NARROW, f"data.train={shards}", f"data.validation={shards}", "train.global_batch=8"
    )[0]


@pytest.fixture
def new_run(run, tmp_path):
    """A run's folder of the same configuration that nothing has begun to train."""
    folder = RunFolder(tmp_path / "new_run")
    folder.path.mkdir()
    folder.write_config(run.read_config())
    return folder


@pytest.fixture(scope="module")
def backbone(run):
    return all4one.load_backbone(run.path)


@pytest.fixture(scope="module")
def evaluated(run, shards):
    """By key, what an evaluation shows the backbone of each image."""
    settings = run.read_config().data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened = ShardSet.open(shards, settings)
    with EvalLoader(opened, settings, rank=0, world_size=1, batch=COUNT, device=device) as loader:
        (batch,) = list(loader)
    return {
        opened.key(sample).rsplit("/")[-1]: image
        for sample, image in zip(batch.ids.tolist(), batch.images, strict=True)
    }


def test_importing_it_loads_nothing_heavy():
    code = "import sys, all4one; sys.exit(sorted({'torch', 'numpy', 'deepspeed', 'PIL'} & sys.modules.keys()) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    assert [name for name in all4one.__all__ if not hasattr(all4one, name)] == []
    assert set(all4one.__all__) <= set(dir(all4one))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = all4one.trian


@pytest.mark.parametrize("kind", ["paths", "texts", "pil", "arrays", "mixed"])
def test_preprocessing_gives_the_pixels_of_evaluation(backbone, evaluated, tmp_path, kind):
    assert len(evaluated) == COUNT
    images = []
    for number in range(COUNT):
        path = tmp_path / f"{number}.png"
        path.write_bytes(encoded(number, "PNG"))
        ways = {
            "paths": path,
            "texts": str(path),
            "pil": Image.open(path),
            "arrays": pixels(number),
        }
        images.append(ways[kind] if kind != "mixed" else list(ways.values())[number % 4])
    found = backbone.preprocess(images)
    assert found.shape == (COUNT, 3, 32, 32)
    assert found.dtype == torch.float32
    for number, image in enumerate(found):
        assert torch.equal(image, evaluated[f"image-{number}"]), number


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_mode_of_pillow_becomes_what_it_is_as_rgb(backbone, mode):
    """Against the RGB of Pillow; of 16 bits, the high byte."""
    image = Image.fromarray(pixels(3))
    if mode == "I;16":
        gray = np.asarray(image.convert("L"))
        image, rgb = Image.fromarray(gray.astype(np.uint16) * 256 + 99), np.stack([gray] * 3, axis=2)
    else:
        image = image.convert(mode)
        rgb = np.asarray(image.convert("RGB"))
    assert image.mode == mode
    assert torch.equal(backbone.preprocess([image]), backbone.preprocess([rgb]))


def test_an_image_may_be_given_twice_and_no_image_at_all(backbone, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(0, "PNG"))
    lazy = Image.open(path)
    found = backbone.preprocess([lazy] * 300)  # more than one batch
    assert found.shape[0] == 300
    assert torch.equal(found, found[:1].expand_as(found))
    assert backbone.preprocess([]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("a.png", "give a list"),
        (Image.new("RGB", (9, 9)), "give a list"),
        (np.zeros((9, 9, 3), np.uint8), r"images\[0\]: is an array \[9, 3\]"),
        ([np.zeros((9, 9, 3), np.float32)], "of float32"),
        ([np.zeros((9, 9), np.uint8)], r"\[9, 9\] of uint8"),
        ([Image.new("F", (9, 9))], "mode F"),
        ([torch.zeros(3, 9, 9)], "is a Tensor"),
        (["nowhere.png"], "nowhere.png: there is no such file"),
        ([Path(__file__).parent], "is a folder"),
        ([Path(__file__), np.zeros((5, 9, 3), np.uint8)], "(?s)2 of 2 .*not a JPEG.*shorter side below 8"),
    ],
)
def test_images_of_another_kind_are_refused(backbone, images, said):
    with pytest.raises(all4one.UserError, match=said) as error:
        backbone.preprocess(images)
    assert error.value.fix


def test_a_cut_image_that_pillow_opened_is_refused(backbone, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded(0, "JPEG")[:-200])
    with pytest.raises(all4one.UserError, match=r"images\[1\]: cannot be decoded"):
        backbone.preprocess([pixels(0), Image.open(path)])


def test_a_backbone_is_the_networks_own_module(run, backbone):
    assert not backbone.training
    assert (backbone.name, backbone.feature_dim, backbone.image_size) == ("online", 64, 32)
    assert backbone.checkpoint.startswith(str(run.checkpoints))
    images = backbone.preprocess([pixels(0), pixels(1)])
    with torch.no_grad():
        features = backbone(images)
        assert features.shape == (2, 64)
        assert torch.equal(features, backbone.network(images))
        assert not torch.equal(features, all4one.load_backbone(run.path, "momentum")(images))


def test_embedding_gives_keys_labels_features_and_what_is_left_out(run, backbone, shards, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(number, "PNG"))
    (tmp_path / "1.png").write_bytes(b"no image")
    backbone.train()
    found = all4one.embed(backbone, [shards, tmp_path], batch=7)
    assert backbone.training
    assert backbone.network.training
    backbone.eval()
    assert found.features.shape == (COUNT + 2, 64)
    assert found.features.dtype == np.float32
    assert found.keys[-2:] == [f"{tmp_path}/0.png", f"{tmp_path}/2.png"]
    assert found.left_out == [(f"{tmp_path}/1.png", "not a JPEG, PNG or WebP image")]
    numbers = [int(key.rsplit("-")[-1]) for key in found.keys[:COUNT]]
    assert sorted(numbers) == list(range(COUNT))
    assert found.labels.tolist() == [*(number % 3 for number in numbers), -1, -1]
    with torch.no_grad():
        wanted = backbone(backbone.preprocess([pixels(number) for number in [*numbers, 0, 2]]))
    np.testing.assert_allclose(found.features, wanted.cpu().numpy(), rtol=1e-4, atol=1e-5)
    momentum = all4one.embed(run.path, shards, backbone="momentum")
    assert not np.allclose(momentum.features, found.features[:COUNT])


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        ("nowhere", {}, "there is no such file"),
        ([], {}, "there are no images"),
        (__file__, {}, "none of 1 images can be used, such as .*: not a JPEG"),
        ([np.zeros((9, 9, 3), np.uint8)], {}, "preprocess"),
        ("nowhere", {"batch": 0}, "at least one image"),
        ("nowhere", {"backbone": "online"}, "has no effect"),
    ],
)
def test_nothing_to_embed_is_refused(backbone, images, options, said):
    with pytest.raises(all4one.UserError, match=said):
        all4one.embed(backbone, images, **options)


def test_evaluation_returns_what_the_file_holds(run, shards):
    """Each image is its own nearest neighbor: kNN of the set on itself against a plain formula."""
    threads = torch.get_num_threads()
    result = all4one.evaluate(run.path, backbone="online")
    assert torch.get_num_threads() == threads
    assert result["images"] == COUNT
    found = all4one.embed(run.path, shards)
    unit = found.features / np.linalg.norm(found.features, axis=1, keepdims=True)
    similar = unit @ unit.T
    votes = np.zeros((COUNT, 3))
    for row, order in enumerate(np.argsort(-similar, axis=1)[:, :20]):
        np.add.at(votes[row], found.labels[order], np.exp(similar[row, order] / TEMPERATURE))
    accuracy = (votes.argmax(axis=1) == found.labels).mean()
    assert result["backbones"]["online"]["knn_20"]["top1"] == pytest.approx(accuracy, abs=1 / COUNT + 1e-9)
    again = all4one.evaluate(run.path, backbone="online", knn=False, retrieval=True)
    assert again["backbones"]["online"].keys() == {"knn_20", "retrieval"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"knn": False}, "no evaluator"),
        ({"backbone": "teacher"}, "has no teacher backbone"),
        ({"validation": "nowhere"}, "nowhere"),
        ({"nproc": 0}, "at least one process"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(run, options, said):
    with pytest.raises(all4one.UserError, match=said):
        all4one.evaluate(run.path, **options)


@pytest.mark.parametrize("overrides", ["train.epochs=2", {"train.epochs": 2}, [2]])
def test_overrides_are_a_list_of_texts(overrides):
    with pytest.raises(all4one.UserError, match="overrides: is not a list of texts"):
        all4one.load_config("digits_demo", overrides)


def test_wrong_runs_leave_no_folder(tmp_path):
    folder = f"run.folder={tmp_path}/runs"
    for nproc, overrides in ((0, [folder]), (1, [folder, "data.train=nowhere"])):
        with pytest.raises(all4one.UserError):
            all4one.train("digits_demo", overrides, nproc=nproc)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(all4one.UserError, match="not the folder of a run"):
        all4one.resume(tmp_path)


@pytest.mark.parametrize(
    ("code", "kind"), [(130, all4one.RunInterrupted), (140, all4one.RunInterrupted), (1, all4one.RunFailed)]
)
def test_a_run_that_does_not_finish_raises(new_run, monkeypatch, code, kind):
    def end(run, nproc):
        run.note("end", attempt=1, reason="error", message="a rank's own words")
        return code

    monkeypatch.setattr("launch.local.runs.train_run", end)
    with pytest.raises(kind) as error:
        all4one.resume(new_run.path)
    for raised in (error.value, pickle.loads(pickle.dumps(error.value))):
        assert isinstance(raised, all4one.UserError)
        assert (raised.folder, raised.exit_code) == (new_run.path, code)
        assert f"all4one.resume({str(new_run.path)!r})" in str(raised)
    assert ("a rank's own words" in str(error.value)) is (code == 1)
    monkeypatch.setattr(
        "launch.local.runs.train_run", lambda run, nproc: 137
    )  # killed before it could note a thing
    with pytest.raises(all4one.RunFailed) as error:
        all4one.resume(new_run.path)
    assert "a rank's own words" not in str(error.value)


def test_a_finished_run_stays_as_it_is(new_run):
    new_run.note("end", attempt=1, reason="finished")
    before = new_run.ledger.read_bytes()
    assert all4one.resume(str(new_run.path)) == new_run.path
    assert new_run.ledger.read_bytes() == before
