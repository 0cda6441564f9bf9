"""MSF beyond its formula: which neighbors a target has, how its queue moves, and how its encoder follows."""

import pytest
import torch
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.config.schema import load_config
from trainer.contrast.queue import QueueSettings
from trainer.distributed.collectives import rank
from trainer.methods.msf import MSF, MSFSettings
from trainer.networks.backbones import BackboneSettings, build_backbone

ROWS = 6


def make(size: int = 50, num_neighbors: int = 5) -> MSF:
    torch.manual_seed(0)
    settings = MSFSettings(
        projector_hidden=16,
        predictor_hidden=16,
        embedding_dim=8,
        num_neighbors=num_neighbors,
        queue=QueueSettings(size=size),
    )
    return settings.build(build_backbone(BackboneSettings(width=8), 16), 0)


def batch() -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank())
    views = [torch.randn(ROWS, 3, 16, 16, generator=generator) for _ in range(2)]
    return views, torch.arange(ROWS) % 3, rank() * ROWS + torch.arange(ROWS)


def searched() -> tuple[Tensor, Tensor]:
    """Ids of the neighbors that a rank found, and of the whole queue then."""
    method, found = make(), []
    search = method.queue.nearest

    def kept(keys: list[Tensor], k: int) -> object:
        found.extend(search(keys, k))
        return found

    method.queue.nearest = kept
    method(*batch())
    return method.queue.ids[found[0].indices], method.queue.ids.clone()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_target_finds_itself_first_in_a_queue_with_the_targets_of_all_ranks(run_ranks, ranks: int) -> None:
    for number, (neighbors, queue) in enumerate(run_ranks(searched, ranks)):
        assert neighbors.shape == (ROWS, 5)
        assert torch.equal(neighbors[:, 0], number * ROWS + torch.arange(ROWS))
        assert torch.equal(queue[: ranks * ROWS], torch.arange(ranks * ROWS))
        assert (queue[ranks * ROWS :] == -1).all()


def test_the_only_neighbor_is_the_target_itself() -> None:
    method = make(num_neighbors=1)
    method.log_diagnostics = True
    views, labels, ids = batch()
    out = method(views, labels, ids)
    assert not {"neighbor_agreement", "neighbor_cosine"} & out.parts.keys()
    predicted = method.predictor(method.projector(method.backbone(views[0])))
    targets = method.momentum.embed(views[1:])[0]
    wanted = (2 - 2 * torch.cosine_similarity(predicted, targets)).mean()
    torch.testing.assert_close(out.parts["loss"], wanted)


def test_agreement_and_age_are_those_of_the_nearest_other_image() -> None:
    method = make()
    method.log_diagnostics = True
    views, labels, ids = batch()
    parts = method(views, torch.arange(ROWS), ids).parts  # no two images have one label
    assert parts["neighbor_agreement"] == 0
    assert parts["neighbor_cosine"] < 1 - 1e-6
    method.after_backward()
    again = [view + 1e-3 for view in views]
    assert method(again, labels, ids).parts["neighbor_age"] == 2  # the same images in the batch before


def test_an_undone_step_leaves_the_queue_as_it_was() -> None:
    method = make()
    method.queue.begin_step(1)
    method(*batch())
    method.after_backward()
    method.queue.begin_step(1)
    before = {name: buffer.clone() for name, buffer in method.queue.named_buffers()}
    method(*batch())
    method.queue.undo_step()
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.queue.named_buffers())


def test_the_momentum_is_constant() -> None:
    method = make()
    with torch.no_grad():
        for parameter in method.projector.parameters():
            parameter.add_(1.0)
    before = method.momentum["projector"][0].weight.clone()
    method.after_step(step=9, total_steps=10)
    online = method.projector[0].weight
    torch.testing.assert_close(method.momentum["projector"][0].weight, 0.99 * before + 0.01 * online)


def test_a_queue_that_is_too_small_is_an_error() -> None:
    with pytest.raises(UserError, match="queue of 5 keys cannot hold a micro-batch of 6"):
        make(size=5)(*batch())
    with pytest.raises(UserError, match=r"num_neighbors \(5\) must not exceed queue.size \(4\)"):
        load_config("cifar10", ["method.name=msf", "method.queue.size=4"])
