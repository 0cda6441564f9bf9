"""Features by share of the ranks, and what evaluations during and after training make of them."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from noise_sets import DATA, make_set
from safetensors.torch import save_file
from small_methods import SMALL
from torch import nn

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.progress import ProgressBars
from data_pipelines.shards.shard_set import ShardSet
from launch.evaluate.evaluation import EvalJob, evaluate_backbone
from trainer.config.schema import Config
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.process_group import agree
from trainer.evaluation.evaluators import Evaluators
from trainer.evaluation.features import EvaluationInterrupted, extract, features_of_set
from trainer.inference.loaded_backbones import METADATA_KEY, Recipe
from trainer.monitoring.online_evaluation import OnlineEvaluation
from trainer.networks.backbones import BackboneSettings, build_backbone


def spoil(folder, samples):
    """Let samples rot that were indexed whole."""
    shards = ShardSet.open(folder)
    for sample in samples:
        with (folder / f"shard-{shards.index['shard'][sample]:06d}.tar").open("r+b") as file:
            file.seek(int(shards.index["offset"][sample]) + 60)
            byte = file.read(1)
            file.seek(-1, io.SEEK_CUR)
            file.write(bytes([byte[0] ^ 255]))


def backbones():
    torch.manual_seed(0)
    flat, pooled = (
        nn.Sequential(nn.Flatten(), nn.Linear(768, 5)),
        nn.Sequential(nn.AvgPool2d(8), nn.Flatten()),
    )
    pooled.append(nn.Linear(12, 3))
    return {"flat": flat.train(), "pooled": pooled.eval()}


def own_features(folder, stop=lambda: 0):
    networks = backbones()
    with EvalLoader(
        ShardSet.open(folder), DATA, rank=rank(), world_size=world_size(), batch=3, device=torch.device("cpu")
    ) as loader:
        found = extract(networks, loader, stop=stop)
    assert [network.training for network in networks.values()] == [True, False]
    assert found.labels.tolist() == ShardSet.open(folder).index["label"][found.ids.cpu()].tolist()
    return found.by_backbone, found.labels


def test_features_are_those_of_each_image_in_order(tmp_path):
    shards = ShardSet.open(make_set(tmp_path / "set"))
    features, labels = own_features(shards.folder)
    assert labels.tolist() == shards.index["label"].tolist()
    networks = backbones()
    with EvalLoader(shards, DATA, rank=0, world_size=1, batch=20, device=torch.device("cpu")) as loader:
        images = next(iter(loader)).images
    for name, network in networks.items():
        torch.testing.assert_close(features[name], network(images).detach())


# by ranks: rank 0's second batch and more; all of rank 1's share; all
@pytest.mark.parametrize(
    ("ranks", "bad"), [(1, [3, 4, 5, 17]), (2, [6, 8, 10, *range(1, 20, 2)]), (3, range(20))]
)
def test_bad_samples_are_left_out_of_each_share(run_ranks, tmp_path, ranks, bad):
    folder = make_set(tmp_path / "set")
    whole, labels = own_features(folder)
    spoil(folder, bad)
    for number, (features, own) in enumerate(run_ranks(own_features, ranks, folder)):
        share = [i for i in range(number, 20, ranks) if i not in bad]
        assert own.tolist() == labels[share].tolist()
        for name, all_rows in whole.items():
            width = all_rows.shape[1] if len(bad) < 20 else 0
            torch.testing.assert_close(features[name], all_rows[share][:, :width])


def features_and_words(folder):
    said = []
    progress = ProgressBars(visible=False)
    progress.say = said.append
    try:
        found = features_of_set(backbones(), ShardSet.open(folder), DATA, progress, "features")
    except UserError as error:
        return str(error), said
    return len(found.labels), said


def test_how_many_images_are_left_out_is_said(run_ranks, tmp_path):
    folder = make_set(tmp_path / "set")
    assert features_and_words(folder) == (20, [])
    spoil(folder, [4, 7, 9])
    for (number, said), rows in zip(run_ranks(features_and_words, 2, folder), (9, 8), strict=True):
        assert number == rows
        [words] = said
        assert f"3 of the 20 images of {folder} cannot be read and are skipped; " in words
    spoil(folder, set(range(20)) - {4, 7, 9})
    for error, said in run_ranks(features_and_words, 2, folder):
        assert "none of its 20 images can be read; " in error
        assert said == []


def stopped_features(folder):
    polls = []

    def stop():
        polls.append(None)
        return agree(130 if rank() == 1 and len(polls) == 2 else 0)

    with pytest.raises(EvaluationInterrupted) as stopped:
        own_features(folder, stop)
    return stopped.value.code, len(polls)


def test_all_ranks_stop_after_the_same_batch(run_ranks, tmp_path):
    assert run_ranks(stopped_features, 2, make_set(tmp_path / "set")) == [(130, 2)] * 2


def online(train, validation, every_epochs):
    parts = SimpleNamespace(
        train_set=ShardSet.open(train),
        validation_set=ShardSet.open(validation),
        total_steps=10,
        loader=SimpleNamespace(steps_per_epoch=5),
        engine=SimpleNamespace(
            method=SMALL["simclr"].build(build_backbone(BackboneSettings(width=4), 16), 2)
        ),
    )
    config = Config.model_validate({"eval": {"every_epochs": every_epochs}})
    return OnlineEvaluation(config, None, parts, None, None, None)


def test_a_validation_set_of_other_classes_is_refused(tmp_path):
    train, other = make_set(tmp_path / "train"), make_set(tmp_path / "other", classes=("dark", "red"))
    with pytest.raises(UserError, match=f"{other}: .*other classes than the training set in {train}"):
        online(train, other, every_epochs=1)
    assert not online(train, other, every_epochs=0).due(0)
    assert [step for step in range(11) if online(train, train, every_epochs=1).due(step)] == [0, 5, 10]


def test_results_of_files_that_differ_after_a_dot_lie_side_by_side(tmp_path, capsys):
    train, validation = make_set(tmp_path / "train", 40), make_set(tmp_path / "validation", 20)
    settings = BackboneSettings(width=4)
    torch.manual_seed(0)
    recipe = Recipe(
        backbone=settings,
        data=DATA.model_copy(update={"train": train, "validation": validation}),
        source="test",
    )
    tensors = {name: value.contiguous() for name, value in build_backbone(settings, 16).state_dict().items()}
    for name in ("net", "net.1"):
        save_file(tensors, str(tmp_path / name), metadata={METADATA_KEY: recipe.model_dump_json()})
        evaluators = Evaluators(knn=(20,), linear_fast=name == "net")
        evaluate_backbone(EvalJob(source=tmp_path / name, evaluators=evaluators))
    first, second = (json.loads((tmp_path / f"{name}.eval.json").read_text()) for name in ("net", "net.1"))
    assert first["images"] == 20
    evaluated = first["backbones"]["exported"]
    assert min(evaluated["knn_20"]["top1"], evaluated["linear_fast"]["top1"]) > 0.7
    assert second["backbones"]["exported"] == {"knn_20": evaluated["knn_20"]}
    assert (first["train_index"], first["validation_index"]) == (
        ShardSet.open(train).fingerprint,
        ShardSet.open(validation).fingerprint,
    )
