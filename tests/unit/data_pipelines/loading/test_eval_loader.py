from pathlib import Path

import numpy as np
import pytest
import torch
from loader_batches import CPU, executors, settings, spoiled

from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.shards.shard_set import ShardSet


@executors
@pytest.mark.parametrize(("world", "batch"), [(1, 90), (1, 16), (3, 7), (4, 100)])
def test_evaluation_sees_each_sample_once_in_order(
    shards: ShardSet, executor: str, world: int, batch: int
) -> None:
    seen: dict[int, torch.Tensor] = {}
    for rank in range(world):
        with EvalLoader(
            shards, settings(executor), rank=rank, world_size=world, batch=batch, device=CPU
        ) as loader:
            batches = list(loader)
            assert len(batches) == len(loader)
        ids = torch.cat([b.ids for b in batches])
        assert ids.tolist() == list(range(rank, 90, world))
        np.testing.assert_array_equal(
            torch.cat([b.labels for b in batches]), shards.index["label"][ids.numpy()]
        )
        seen |= dict(zip(ids.tolist(), torch.cat([b.images for b in batches]), strict=True))
    with EvalLoader(shards, settings(executor), rank=0, world_size=1, batch=32, device=CPU) as loader:
        for evaluated in loader:
            for sample, image in zip(evaluated.ids.tolist(), evaluated.images, strict=True):
                assert torch.equal(image, seen[sample])


def test_evaluation_is_the_center_of_the_image(shards: ShardSet) -> None:
    import cv2

    from data_pipelines.imaging.images import decode_rgb

    with EvalLoader(shards, settings(), rank=0, world_size=1, batch=90, device=CPU) as loader:
        batch = next(iter(loader))
    for sample in (0, 44):
        pixels = decode_rgb(shards.read(sample))
        height, width, _ = pixels.shape
        scale = 18 / min(height, width)
        whole = cv2.resize(
            pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA
        )
        y, x = (whole.shape[0] - 16) // 2, (whole.shape[1] - 16) // 2
        mean, std = (torch.tensor(v)[:, None, None] for v in (settings().mean, settings().std))
        got = ((batch.images[sample] * std + mean) * 255).permute(1, 2, 0).numpy()
        assert np.abs(got - whole[y : y + 16, x : x + 16]).mean() < 12


def test_evaluation_leaves_bad_samples_out(whole_set: Path, tmp_path: Path) -> None:
    with (
        spoiled(whole_set, tmp_path / "set", [4, *range(10, 20)]) as rotten,
        EvalLoader(rotten, settings(), rank=0, world_size=1, batch=10, device=CPU) as loader,
    ):
        ids = [sample for batch in loader for sample in batch.ids.tolist()]
        assert ids == [i for i in range(90) if i != 4 and not 10 <= i < 20]
        assert loader.bad_samples == 11
