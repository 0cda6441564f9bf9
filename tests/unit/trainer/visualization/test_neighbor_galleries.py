"""Images beside what the queue of each checkpoint holds nearest to them."""

import copy
import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from noise_sets import make_set
from PIL import Image
from trained_runs import make_run

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.errors import UserError
from data_pipelines.imaging.images import decode_rgb
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.subsets import balanced_sample
from data_pipelines.sources.image_sources import Item, Source
from trainer.checkpoints.format import MODEL, Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.methods import Method
from trainer.runs.components import build_method
from trainer.runs.run_folder import RunFolder
from trainer.visualization.neighbor_galleries import key_encoder, neighbor_galleries
from trainer.visualization.samples import tile

pytestmark = pytest.mark.slow

SMALL = ("backbone.width=8", "data.views.0.size=16", "data.views.1.size=16", "data.eval_resize=16")
NNCLR = (
    "method={name: nnclr, projector_hidden: 16, predictor_hidden: 16, embedding_dim: 8, queue: {size: 32}}"
)
ENCODER = "method.neighbor_space=encoder"
SIMCLR = "method={name: simclr, projector_hidden: 16, embedding_dim: 8}"


@dataclass
class Case:
    """A run whose checkpoints differ in weights and queue."""

    run: RunFolder
    shards: ShardSet
    methods: dict[int, Method]
    """By step, in float64."""

    def image(self, sample):
        return tile(decode_rgb(self.shards.read(sample)), 96)

    def name(self, sample):
        return self.shards.classes[self.shards.index["label"][sample]]

    def wanted(self, step, sample, k):
        """Ids and cosines of the rows of the queue that are nearest to an image, without any of our code."""
        method, data = self.methods[step], self.run.read_config().data
        networks = method if method.momentum is None else method.momentum
        pixels = (decode_rgb(self.shards.read(sample)) / 255 - data.mean) / data.std
        with torch.no_grad():
            features = networks.get_submodule("backbone")(torch.from_numpy(pixels).permute(2, 0, 1)[None])
            in_encoder = method.queue.search_rows is not None
            key = (features if in_encoder else networks.get_submodule("projector")(features))[0].numpy()
        rows = (method.queue.search_rows if in_encoder else method.queue.rows).numpy()
        ids = method.queue.ids.numpy()
        cosines = rows @ key / np.linalg.norm(key) / np.linalg.norm(rows, axis=1)
        best = [place for place in np.argsort(-cosines) if ids[place] != sample][:k]
        return ids[best].tolist(), cosines[best].tolist()


def noise(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_case(folder, *overrides, steps=(3, 8, 20), shards=None):
    shards = ShardSet.open(shards or make_set(folder / "set", 24))
    run, _ = make_run(folder / "run", *SMALL, f"data.train={shards.folder}", *overrides)
    method = build_method(run.read_config(), shards.num_classes, torch.device("cpu")).eval()
    generator, methods = torch.Generator().manual_seed(0), {}
    store = CheckpointStore(run.checkpoints, attempt=2, keep_last=99)
    for step in steps:
        with torch.no_grad():
            for value in method.state_dict().values():
                if value.is_floating_point():
                    value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
            if method.queue is not None:
                for vectors in method.queue._vectors():
                    vectors.copy_(torch.nn.functional.normalize(vectors))
                method.queue.ids.copy_(torch.randint(24, (32,), generator=generator))
                method.queue.ids[step % 7 :: 7] = -1
        store.write(
            Snapshot(step, method.state_dict(), {}, {"step": step, "data": shards.fingerprint}),
        )
        methods[step] = copy.deepcopy(method).double()
    return Case(run, shards, methods)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("case"), steps=(3, 8, 20, 31, 40))


def assert_as_wanted(case, gallery, ids, k):
    assert len(gallery.rows) == len(ids)
    agreeing = []
    for sample, row in zip(ids, gallery.rows, strict=True):
        assert (row.image.jpeg, row.image.name) == (case.image(sample), case.name(sample))
        wanted, cosines = case.wanted(gallery.step, sample, k)
        np.testing.assert_allclose(row.cosines, cosines, atol=1e-5)
        for other, seen in zip(wanted, row.neighbors, strict=True):
            if other < 0:
                assert seen is None
            else:
                assert (seen.jpeg, seen.name) == (case.image(other), case.name(other))
                agreeing.append(seen.name == case.name(sample))
    assert gallery.agreement == pytest.approx(np.mean(agreeing))


def chosen(case, images):
    labels = case.shards.index["label"]
    return sorted(balanced_sample(labels, images, 0), key=lambda sample: (labels[sample], sample))


def test_the_same_images_at_every_step_with_the_nearest_rows_of_that_steps_queue(case):
    galleries = neighbor_galleries(case.run, images=6, k=5, steps=3)
    assert [gallery.step for gallery in galleries] == [3, 20, 40]
    ids = chosen(case, 6)
    assert [case.name(sample) for sample in ids] == ["dark"] * 3 + ["light"] * 3
    for gallery in galleries:
        assert_as_wanted(case, gallery, ids, 5)
    assert len({gallery.rows[0].cosines for gallery in galleries}) == 3


def test_all_of_the_queue_but_the_image_itself_and_no_picture_of_what_never_was_one(case):
    (gallery,) = neighbor_galleries(case.run, images=4, k=99, steps=1)
    ids = chosen(case, 4)
    assert gallery.step == 40
    assert_as_wanted(case, gallery, ids, 99)
    queue = case.methods[gallery.step].queue.ids
    for sample, row in zip(ids, gallery.rows, strict=True):
        assert len(row.neighbors) == 32 - (queue == sample).sum()
        assert row.neighbors.count(None) == (queue < 0).sum() > 0
        assert list(row.cosines) == sorted(row.cosines, reverse=True)


def test_as_many_galleries_as_there_are_checkpoints_each_time_the_same(case):
    galleries = neighbor_galleries(case.run, images=2, k=1, steps=9)
    assert [gallery.step for gallery in galleries] == [3, 8, 20, 31, 40]
    assert galleries == neighbor_galleries(case.run, images=2, k=1, steps=9)


def test_without_an_averaged_copy_the_keys_are_the_networks_own(tmp_path):
    case = make_case(tmp_path, NNCLR, steps=(3,))
    (gallery,) = neighbor_galleries(case.run)
    assert_as_wanted(case, gallery, chosen(case, 6), 5)


def test_neighbors_of_the_encoder_are_compared_by_features(tmp_path):
    case = make_case(tmp_path, ENCODER, steps=(3,))
    (gallery,) = neighbor_galleries(case.run)
    assert_as_wanted(case, gallery, chosen(case, 6), 5)


def test_images_that_cannot_be_read_are_blank_or_left_out(tmp_path):
    case = make_case(tmp_path)
    ids, content = chosen(case, 6), bytearray((case.shards.folder / "shard-000000.tar").read_bytes())
    lost = [sample for sample in range(8) if (case.shards.index["shard"][sample]) == 0]
    for sample in lost:
        content[case.shards.index["offset"][sample] + 60] ^= 255
    gallery = neighbor_galleries(case.run, k=31)[-1]
    (case.shards.folder / "shard-000000.tar").write_bytes(content)
    after = neighbor_galleries(case.run, k=31)[-1]
    kept = [place for place, sample in enumerate(ids) if sample not in lost]
    assert 0 < len(kept) < len(ids)
    for place, row in zip(kept, after.rows, strict=True):
        np.testing.assert_allclose(row.cosines, gallery.rows[place].cosines, atol=1e-6)
        wanted, _ = case.wanted(20, ids[place], 31)
        assert [seen is None for seen in row.neighbors] == [other < 0 or other in lost for other in wanted]


def test_labels_that_are_not_there_agree_with_nothing(tmp_path):
    build(Source([Item(f"{n}", noise(n), -1) for n in range(24)], ()), tmp_path / "plain", BuildOptions())
    case = make_case(tmp_path, shards=tmp_path / "plain")
    gallery = neighbor_galleries(case.run)[-1]
    assert gallery.agreement is None
    assert {(row.image.name, row.image.label) for row in gallery.rows} == {("", -1)}
    assert len(gallery.rows) == 6


def test_a_checkpoint_that_is_not_whole_is_left_out(tmp_path):
    case = make_case(tmp_path)
    weights = next(case.run.checkpoints.glob("step_00000008*")) / MODEL
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert [gallery.step for gallery in neighbor_galleries(case.run)] == [3, 20]


def test_a_run_without_queue_or_with_a_stream_has_no_gallery(tmp_path):
    assert neighbor_galleries(make_case(tmp_path / "simclr", SIMCLR).run) == []
    streamed, _ = make_run(
        tmp_path / "stream",
        *SMALL,
        "data.reader=stream",
        "data.stream.samples=64",
        "data.validation=null",
        f"data.train={tmp_path}/shard-{{000000..000001}}.tar",
    )
    assert neighbor_galleries(streamed) == []


def test_another_set_or_none_is_one_message(tmp_path):
    case = make_case(tmp_path)
    case.shards.folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="set: there is no such folder"):
        neighbor_galleries(case.run)
    make_set(tmp_path / "set", 26)
    with pytest.raises(UserError, match="the training set is not the one that the checkpoint was made with"):
        neighbor_galleries(case.run)


def test_keys_that_nobody_knows_how_to_make_are_one_message(case):
    method = copy.deepcopy(case.methods[3])
    del method.momentum["projector"]
    with pytest.raises(UserError, match="All4One: the network that computes the queue keys"):
        key_encoder(method)
