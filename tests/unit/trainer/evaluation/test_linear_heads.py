"""Heads side by side against one `nn.Linear` at a time, trained by torch's own SGD, in float64."""

import math

import pytest
import torch
from torch import nn

from trainer.distributed.collectives import rank, world_size
from trainer.evaluation.linear_heads import LinearHeads

RATES, CLASSES, WIDTH, BATCH, STEPS = (0.1, 1.0, 7.0), 4, 6, 12, 5
CPU = torch.device("cpu")


def make_batches():
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64),
            torch.randint(CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def factor(step):
    return (1 + math.cos(math.pi * step / STEPS)) / 2


def straight(rate):
    """Weight, bias and losses of one head alone."""
    head = nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    losses = []
    for step, (features, labels) in enumerate(make_batches()):
        optimizer.param_groups[0]["lr"] = rate * factor(step)
        loss = nn.functional.cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return head.weight.detach(), head.bias.detach(), losses


def trained():
    """Heads and their losses, of this rank's share of each batch."""
    heads = LinearHeads(RATES, CLASSES, WIDTH, CPU, torch.float64)
    own = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
    losses = []
    for step in range(STEPS):
        features, labels = make_batches()[step]
        losses.append(heads.step(features[own], labels[own], factor=factor(step), batch=BATCH))
    return heads, torch.stack(losses)


def test_each_head_is_the_one_trained_alone():
    heads, losses = trained()
    for number, rate in enumerate(RATES):
        weight, bias, own = straight(rate)
        torch.testing.assert_close(heads.tensors["weight"][number], weight, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(heads.tensors["bias"][number], bias, rtol=1e-10, atol=1e-12)
        assert losses[:, number].tolist() == pytest.approx(own)


def ranks_trained():
    heads, losses = trained()
    features, labels = make_batches()[0]
    own = slice(0, 3) if rank() == 0 else slice(3, None)  # uneven parts of the evaluated rows
    return heads.tensors, losses, heads.accuracy(features[own], labels[own])


def test_ranks_train_and_evaluate_as_one(run_ranks):
    heads, losses = trained()
    expected = heads.accuracy(*make_batches()[0])
    found = run_ranks(ranks_trained, 2)
    for tensors, _, accuracy in found:
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, heads.tensors[name], rtol=1e-10, atol=1e-12)
        assert accuracy == expected
    torch.testing.assert_close(found[0][1] + found[1][1], losses, rtol=1e-10, atol=1e-12)


def test_accuracy_is_that_of_the_ranked_logits():
    heads, _ = trained()
    features, labels = make_batches()[0]
    labels = labels.clone()
    labels[3] = -1
    for number, (top1, top5) in enumerate(heads.accuracy(features, labels)):
        logits = features @ heads.tensors["weight"][number].T + heads.tensors["bias"][number]
        right = (logits.argmax(1) == labels)[labels >= 0]
        assert top1 == right.double().mean()
        assert top5 == 1


def test_a_head_that_has_diverged_is_right_nowhere():
    heads, _ = trained()
    heads.tensors["weight"][1].fill_(math.nan)
    heads.tensors["bias"][2].fill_(math.inf)
    features, labels = make_batches()[0]
    accuracy = heads.accuracy(features, labels)
    assert accuracy[1] == (0, 0)
    assert accuracy[0][0] > 0.3
