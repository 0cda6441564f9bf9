"""Features in a plane: which images, whose features, and where they stand."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from noise_sets import make_set
from trained_runs import make_run

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import decode_rgb
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.subsets import balanced_sample
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.runs.run_folder import RunFolder
from trainer.visualization.feature_map import feature_map
from trainer.visualization.projection import project_2d

pytestmark = pytest.mark.slow

SMALL = ("backbone.width=8", "data.views.0.size=16", "data.views.1.size=16", "data.eval_resize=16")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet.open(make_set(tmp_path_factory.mktemp("sets") / "validation", 64))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards):
    """A run and its method."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return make_run(folder, *SMALL, f"data.train={shards.folder}", f"data.validation={shards.folder}", step=7)


def straight(trained, shards, ids, which="momentum"):
    """Directions [N, F] of features in float64, without any of our loaders."""
    run, method = trained
    data = run.read_config().data
    pixels = np.stack([decode_rgb(shards.read(i)) for i in ids]) / 255  # [N, 16, 16, 3]
    views = torch.from_numpy((pixels - data.mean) / data.std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        features = method.evaluation_backbones()[which](views).double().numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def between(points):
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def test_samples_come_from_all_classes_in_turn():
    labels = np.repeat([0, 1, 2, -1], [40, 3, 20, 7])[np.random.default_rng(0).permutation(70)]
    for count, wanted in [(4, [1, 1, 1, 1]), (15, [4, 3, 4, 4]), (40, [15, 3, 15, 7]), (999, [40, 3, 20, 7])]:
        found = balanced_sample(labels, count, 0)
        assert (np.diff(found) > 0).all()
        counts = np.array([(labels[found] == label).sum() for label in (0, 1, 2, -1)])
        # of the last turn, which not all classes can be part of, it is drawn who is
        assert counts.sum() == sum(wanted)
        assert np.abs(counts - wanted).max() <= 1
        assert set(found) <= set(balanced_sample(labels, count + 5, 0))
    assert not np.array_equal(balanced_sample(labels, 15, 0), balanced_sample(labels, 15, 1))
    first = {int(labels[balanced_sample(labels, 1, seed)[0]]) for seed in range(40)}
    assert first == {0, 1, 2, -1}


def test_few_images_stand_where_their_principal_components_say(trained, shards):
    found = feature_map(trained[0], images=20)
    ids = balanced_sample(shards.index["label"], 20, 0)
    assert (found.how, found.backbone, found.step, found.classes) == ("PCA", "momentum", 7, ("dark", "light"))
    np.testing.assert_array_equal(found.labels, shards.index["label"][ids])
    assert np.bincount(found.labels).tolist() == [10, 10]
    directions = straight(trained, shards, ids)
    centerd = directions - directions.mean(axis=0)
    u, s, _ = np.linalg.svd(centerd, full_matrices=False)
    wanted = u[:, :2] * s[:2]
    wanted /= np.ptp(wanted, axis=0).max()
    np.testing.assert_allclose(between(found.places.astype(float)), between(wanted), atol=1e-4)
    assert found.places.dtype == np.float32
    assert np.ptp(found.places, axis=0).max() == pytest.approx(1)
    middle = (found.places.min(axis=0) + found.places.max(axis=0)) / 2
    np.testing.assert_allclose(middle, 0.5, atol=1e-6)


def test_the_same_seed_is_the_same_map(trained):
    part, again, other = (feature_map(trained[0], images=40, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(part.places, again.places)
    assert not np.array_equal(part.places, other.places)
    whole = feature_map(trained[0], how="tsne")
    assert (whole.how, len(whole.places)) == ("t-SNE", 64)
    assert (whole.places.min(), whole.places.max()) == (0, 1)


@pytest.mark.parametrize("way", ["t-SNE", "PCA"])
def test_what_is_alike_stands_together(way):
    rng = np.random.default_rng(0)
    groups = np.arange(60) % 3
    features = rng.normal(size=(3, 80))[groups] + 0.2 * rng.normal(size=(60, 80))
    places, _ = project_2d(features.astype(np.float32), way, 0)
    apart = between(places.astype(float)) + np.diag(np.full(60, np.inf))
    np.testing.assert_array_equal(groups[apart.argmin(axis=1)], groups)


def test_a_map_is_one_of_directions():
    features = np.random.default_rng(0).normal(size=(60, 80)).astype(np.float32)
    lengths = 2.0 ** np.random.default_rng(1).integers(-3, 4, (60, 1))
    np.testing.assert_array_equal(
        *(project_2d(f.astype(np.float32), "t-SNE", 0)[0] for f in (features, lengths * features))
    )


@pytest.mark.parametrize(("count", "width"), [(1, 8), (2, 8), (40, 1), (40, 8)])
def test_features_without_spread_are_points_all_the_same(count, width):
    places, way = project_2d(np.ones((count, width), np.float32), "t-SNE", 0)
    assert way == "PCA"
    np.testing.assert_array_equal(places, np.full((count, 2), 0.5, np.float32))


def test_umap_is_taken_where_it_is_installed(trained, monkeypatch):
    asked = {}

    class Reducer:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, rows):
            return rows[:, :2] * 7

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Reducer, __spec__=object()))
    found = feature_map(trained[0], images=40, seed=5)
    assert found.how == "UMAP"
    assert asked["random_state"] == 5
    assert np.ptp(found.places, axis=0).max() == pytest.approx(1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("umap", r"umap-learn is missing\n.*pip install 'all4one\[report\]'"),
        ("map", "choose one of umap, tsne, pca"),
    ],
)
def test_a_way_that_is_not_there(trained, monkeypatch, how, message):
    monkeypatch.setattr("trainer.visualization.projection.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        feature_map(trained[0], how=how)
    assert feature_map(trained[0], images=32).how == "t-SNE"


def test_a_run_without_validation_set_or_averaged_copy(tmp_path, shards):
    trained = make_run(
        tmp_path / "run",
        "method={name: simclr, projector_hidden: 16, embedding_dim: 8}",
        *SMALL,
        f"data.train={shards.folder}",
        "data.validation=null",
    )
    found = feature_map(trained[0], images=10, seed=3)
    assert found.backbone == "online"
    ids = balanced_sample(shards.index["label"], 10, 3)
    np.testing.assert_array_equal(found.labels, shards.index["label"][ids])


def test_what_cannot_be_mapped_is_one_message(tmp_path, trained, shards):
    run, method = trained
    gone, _ = make_run(tmp_path / "gone", *SMALL, f"data.validation={tmp_path / 'absent'}")
    with pytest.raises(UserError, match="absent: there is no such folder"):
        feature_map(gone)
    broken, _ = make_run(tmp_path / "broken", *SMALL, f"data.validation={shards.folder}")
    state = {name: value.clone() for name, value in method.state_dict().items()}
    state["momentum.backbone.conv1.weight"][:] = torch.nan
    CheckpointStore(broken.checkpoints, attempt=2).write(Snapshot(9, state, {}, {"step": 9}))
    with pytest.raises(UserError, match="features that are not finite"):
        feature_map(broken)
    empty = RunFolder(tmp_path / "empty")
    empty.path.mkdir()
    empty.config.write_bytes(run.config.read_bytes())
    with pytest.raises(UserError, match="has no valid checkpoint yet"):
        feature_map(empty)
