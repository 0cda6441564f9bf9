"""A network that is fine-tuned, against the update written out, in float64."""

import copy

import torch
from torch import nn

from data_pipelines.errors import UserError
from trainer.distributed.collectives import rank, world_size
from trainer.evaluation.classifier import Classifier

CLASSES, WIDTH, BATCH, RATE = 3, 4, 8, 0.3
FACTORS = (1.0, 0.75, 0.25)


def make_backbone():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, WIDTH, 3, stride=2), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten()).double().to(memory_format=torch.channels_last).eval()


def make_batches():
    generator = torch.Generator().manual_seed(1)
    for _ in FACTORS:
        images = torch.randn(BATCH, 3, 9, 9, generator=generator, dtype=torch.float64)
        yield images, torch.randint(CLASSES, (BATCH,), generator=generator)


def straight():
    """Weights and buffers after v = 0.9 v + g, w = w - rate (g + 0.9 v) (Nesterov as in Sutskever et al. 2013)."""
    network = nn.Sequential(make_backbone(), nn.Linear(WIDTH, CLASSES, dtype=torch.float64)).train()
    for parameter in network[1].parameters():
        nn.init.zeros_(parameter)
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    for (images, labels), factor in zip(make_batches(), FACTORS, strict=True):
        log_p = network(images).log_softmax(1)
        loss = -log_p[torch.arange(BATCH), labels].mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, v, g in zip(network.parameters(), velocity, gradients, strict=True):
                v.copy_(0.9 * v + g)
                p -= RATE * factor * (g + 0.9 * v)
    return list(network.state_dict().values())


def trained(backbone=None):
    """A classifier after all steps on this rank's share of each batch."""
    classifier = Classifier(backbone or make_backbone(), CLASSES, WIDTH, RATE)
    own = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
    for (images, labels), factor in zip(make_batches(), FACTORS, strict=True):
        classifier.step(images[own], labels[own], factor)
    return classifier


def assert_straight(state):
    for found, wanted in zip(state, straight(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_steps_are_those_of_nesterov_s_momentum_on_all_weights():
    classifier = trained()
    assert_straight(classifier.network.state_dict().values())
    before = make_backbone().state_dict()
    after = classifier.network.backbone.state_dict()
    assert not [name for name in before if after[name].equal(before[name])]


def test_the_backbone_stays_as_it_is():
    backbone = make_backbone()
    before = copy.deepcopy(backbone.state_dict())
    trained(backbone)
    assert not backbone.training
    for name, value in backbone.state_dict().items():
        assert value.equal(before[name])
    assert all(p.grad is None for p in backbone.parameters())


def test_the_head_is_zero_at_first():
    images, labels = next(make_batches())
    classifier = Classifier(make_backbone(), CLASSES, WIDTH, RATE)
    assert not classifier.network(images).any()
    loss = classifier.step(images, labels, 1.0)
    torch.testing.assert_close(loss, torch.tensor(CLASSES, dtype=torch.float64).log())


def ranks_trained():
    plain = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH, track_running_stats=False))
    try:
        Classifier(plain, CLASSES, WIDTH, RATE)
    except UserError as error:
        return list(trained().network.state_dict().values()), str(error)


def test_two_ranks_train_as_one_and_name_what_only_one_can_train(run_ranks):
    for state, refused in run_ranks(ranks_trained, 2):
        assert_straight(state)
        assert "--finetune: BatchNorm2d" in refused
        assert "evaluate with one process" in refused
