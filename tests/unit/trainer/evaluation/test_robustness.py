"""The error on corrupted images, against a count image by image, over two ranks, and after an interruption."""

import io
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from noise_sets import DATA, make_set
from PIL import Image
from rank_processes import run_as_ranks
from torch import Tensor, nn

from data_pipelines.imaging.corruptions.corrupt import KINDS, LEVELS, corrupt
from data_pipelines.progress import ProgressBars
from data_pipelines.shards.shard_set import ShardSet
from trainer.evaluation import robustness
from trainer.evaluation.evaluators import LinearClassifiers
from trainer.evaluation.features import features_of_set
from trainer.evaluation.robustness import Robustness

CLASSES = ("dark", "light")


class Pooled(nn.Module):
    """Brightness of the quarters of an image, how much neighbors differ, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        pooled = nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        rough = images.diff(dim=2).abs().mean((2, 3))
        return self.scale * torch.cat([pooled, rough], dim=1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return make_set(folder / "train", 60), make_set(folder / "validation", 23)


def measured(
    sets: tuple[Path, Path], state: Path, backbone: nn.Module | None = None, weights: str = "w"
) -> dict[str, dict[str, Any]]:
    train, validation = map(ShardSet.open, sets)
    backbones = {"online": (backbone or Pooled()).eval()}
    progress = ProgressBars(False)
    found = Robustness(backbones, train, validation, DATA, weights=weights, state=state, progress=progress)
    if found.needs_classifiers:
        bank = features_of_set(backbones, train, DATA, progress, "features")
        found.keep({"online": LinearClassifiers(bank, 2).of("online")})
    return dict(found.results())


@pytest.fixture(scope="module")
def alone(sets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return measured(sets, tmp_path_factory.mktemp("alone") / "state")


def test_the_error_is_what_a_count_image_by_image_gives(
    sets: tuple[Path, Path], alone: dict[str, dict[str, Any]]
) -> None:
    train, validation = map(ShardSet.open, sets)
    backbone, progress = Pooled().eval(), ProgressBars(False)
    bank = features_of_set({"online": backbone}, train, DATA, progress, "features")
    classifier = LinearClassifiers(bank, 2).of("online")
    average, deviation = np.array(DATA.mean), np.array(DATA.std)

    def is_wrong(sample: int, kind: str | None, level: int) -> int:
        # these images have the size of a view, so the center crop changes nothing
        pixels = decoded(validation.read(sample))
        if kind is not None:
            pixels = corrupt(pixels, kind, level, sample)
        normal = torch.tensor((pixels / 255 - average) / deviation, dtype=torch.float32).permute(2, 0, 1)
        with torch.no_grad():
            logits = classifier.logits(backbone(normal[None]))
        return int(int(logits.argmax()) != validation.index["label"][sample])

    result = alone["online"]
    samples = range(len(validation))
    assert result["images"] == 23
    assert result["clean_error"] == pytest.approx(mean(is_wrong(sample, None, 0) for sample in samples))
    for kind in KINDS:
        wanted = [mean(is_wrong(sample, kind, level) for sample in samples) for level in LEVELS]
        assert result["errors"][kind] == pytest.approx(wanted), kind
    assert tuple(result["errors"]) == KINDS
    every = [error for errors in result["errors"].values() for error in errors]
    assert len(every) == 75
    assert result["mean_corruption_error"] == pytest.approx(sum(every) / 75)
    assert result["relative_error"] == pytest.approx(sum(every) / 75 - result["clean_error"])
    assert max(every) > 0.3 > result["clean_error"]


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_two_ranks_find_what_one_does(
    sets: tuple[Path, Path], alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert run_as_ranks(measured, 2, tmp_path, (sets, tmp_path / "state")) == [alone, alone]


class Killed(Exception):
    pass


def test_finished_kinds_are_kept_when_it_is_killed(
    sets: tuple[Path, Path],
    alone: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = list[str]()

    def until_fog(image: Any, kind: str, level: int, sample: int) -> Any:
        if kind == "fog":
            raise Killed
        return corrupt(image, kind, level, sample)

    with monkeypatch.context() as patch:
        patch.setattr(robustness, "corrupt", until_fog)
        with pytest.raises(Killed):
            measured(sets, tmp_path / "state")

    def noted(image: Any, kind: str, level: int, sample: int) -> Any:
        done.append(kind)
        return corrupt(image, kind, level, sample)

    backbone = Pooled()
    monkeypatch.setattr(robustness, "corrupt", noted)
    assert measured(sets, tmp_path / "state", backbone) == alone
    assert set(done) == set(KINDS[KINDS.index("fog") :])
    # its size, and one batch of each level of six kinds: neither clean images nor those of the training set again
    assert backbone.calls == 1 + 6 * 5
    assert not (tmp_path / "state").exists()


def test_the_state_of_other_weights_is_ignored(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise Killed

    monkeypatch.setattr(robustness, "corrupt", killed)
    for weights, calls in (("a", 2), ("b", 2), ("b", 1)):
        backbone = Pooled()
        with pytest.raises(Killed):
            measured(sets, tmp_path / "state", backbone, weights)
        # features of the training set and clean images, or only the size of the features
        assert backbone.calls == calls
