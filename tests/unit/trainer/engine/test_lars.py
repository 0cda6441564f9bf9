import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.distributed.collectives import rank, world_size
from trainer.engine.lars import LARS, scaled_in_rows, scaled_one_by_one
from trainer.engine.padded_rows import ROW, PaddedRows
from trainer.engine.partition import Partition


def reference_lars(
    weights, gradients_of_steps, lrs, *, trust_coefficient, decay, momentum, clip_lr, excluded
):
    """The published rule, one tensor and one step at a time."""
    weights, velocities = [w.clone() for w in weights], [None] * len(weights)
    for gradients, lr in zip(gradients_of_steps, lrs, strict=True):
        for i, g in enumerate(gradients):
            if g is None:
                continue
            w = weights[i]
            w_norm, g_norm = w.norm().item(), g.norm().item()
            if not excluded[i] and w_norm > 0 and g_norm > 0:
                r = trust_coefficient * w_norm / (g_norm + decay * w_norm + 1e-8)
                if clip_lr:
                    r = min(r / lr, 1)
                g = r * (g + decay * w)
            velocities[i] = g if velocities[i] is None else momentum * velocities[i] + g
            weights[i] = w - lr * velocities[i]
    return weights


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    lrs=st.lists(st.floats(1e-4, 3), min_size=1, max_size=4),
    trust_coefficient=st.sampled_from([1e-3, 0.02, 1.0]),
    decay=st.sampled_from([0.0, 1e-5, 0.1]),
    momentum=st.sampled_from([0.0, 0.9]),
    clip_lr=st.booleans(),
    double=st.booleans(),
)
def test_lars_is_the_published_rule(shapes, seed, lrs, trust_coefficient, decay, momentum, clip_lr, double):
    dtype = torch.float64 if double else torch.float32
    generator = torch.Generator().manual_seed(seed)

    def draw(shape):
        kind = torch.rand((), generator=generator).item()
        return torch.randn(shape, generator=generator, dtype=dtype) * (0.0 if kind < 0.2 else 1.0)

    weights = [draw(shape) for shape in shapes]
    gradients = [
        [draw(s) if torch.rand((), generator=generator) > 0.1 else None for s in shapes] for _ in lrs
    ]
    excluded = [len(shape) <= 1 for shape in shapes]
    expected = reference_lars(
        weights,
        gradients,
        lrs,
        trust_coefficient=trust_coefficient,
        decay=decay,
        momentum=momentum,
        clip_lr=clip_lr,
        excluded=excluded,
    )
    parameters = [nn.Parameter(w.clone()) for w in weights]
    groups = [
        {"params": [p for p, out in zip(parameters, excluded, strict=True) if out is flag], "exclude": flag}
        for flag in (False, True)
    ]
    optimizer = LARS(
        groups, momentum=momentum, weight_decay=decay, trust_coefficient=trust_coefficient, clip_lr=clip_lr
    )
    for step, lr in enumerate(lrs):
        for parameter, gradient in zip(parameters, gradients[step], strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    for parameter, wanted in zip(parameters, expected, strict=True):
        tolerance = {"rtol": 1e-12, "atol": 1e-12} if double else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(parameter.data, wanted, **tolerance)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(
        st.sampled_from([(), (1,), (ROW,), (ROW + 1,), (3, 2, 5, 7), (40, 60)]), min_size=1, max_size=5
    ),
    seed=st.integers(0, 2**31),
    channels_last=st.booleans(),
)
def test_rows_of_one_buffer_give_the_bits_of_one_tensor_after_the_other(shapes, seed, channels_last):
    generator = torch.Generator().manual_seed(seed)
    order = torch.channels_last if channels_last else torch.contiguous_format

    def draw(shape):
        tensor = torch.randn(shape, generator=generator)
        return tensor.contiguous(memory_format=order) if len(shape) == 4 else tensor

    weights, gradients = [draw(s) for s in shapes], [draw(s) for s in shapes]
    decays, ratios = torch.rand(2, len(shapes), generator=generator)
    rows = PaddedRows([w.numel() for w in weights], torch.device("cpu"))
    together = scaled_in_rows(rows, weights, gradients, decays, ratios)
    for a, b in zip(together, scaled_one_by_one(weights, gradients, decays, ratios), strict=True):
        assert a.equal(b)


def test_lars_leaves_gradients_alone_and_stays_finite_at_lr_0():
    weight, bias = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.zeros(3))
    optimizer = LARS([{"params": [weight]}, {"params": [bias], "exclude": True}])
    weight.grad, bias.grad = torch.ones(3, 3), torch.ones(3)
    for lr in (1.0, 0.0):
        before = weight.detach().clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        assert torch.equal(weight.grad, torch.ones(3, 3))
        assert torch.equal(bias.grad, torch.ones(3))
        assert torch.equal(weight.detach(), before) is (lr == 0)
        assert bool(weight.isfinite().all())


def test_lars_gives_the_closure_s_loss_and_takes_its_gradient():
    weight = nn.Parameter(torch.ones(2, 2))

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert LARS([weight]).step(closure).item() == 4
    assert bool((weight < 1).all())


def update_shares(weights: list[Tensor], gradients: list[list[Tensor]]) -> list[Tensor]:
    total = sum(weight.numel() for weight in weights)
    size = total // world_size() + 3  # of seven shares the last has no weight
    partition = Partition([w.shape for w in weights], size, rank(), world_size())
    like = torch.empty(partition.size)
    share = nn.Parameter(partition.cut(weights, like))
    optimizer = LARS([share], lr=0.5)
    optimizer.partitions = {share: partition}
    for of_step in gradients:
        share.grad = partition.cut(of_step, like)
        optimizer.step()
    return partition.gather(share.detach())


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_shares_are_updated_by_the_norms_of_the_whole_weights(run_ranks, ranks: int) -> None:
    shapes = [(5, 7), (3,), (2, 2, 2), (1,)]
    weights = [torch.randn(shape) * 10.0**-place for place, shape in enumerate(shapes)]
    weights[1].zero_()
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    whole = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = LARS(whole, lr=0.5)
    for of_step in gradients:
        for parameter, gradient in zip(whole, of_step, strict=True):
            parameter.grad = gradient
        optimizer.step()
    for found, parameter in zip(run_ranks(update_shares, ranks, weights, gradients)[0], whole, strict=True):
        torch.testing.assert_close(found, parameter.data, rtol=1e-5, atol=1e-6)


def one_tensor_after_the_other(
    weights: list[Tensor], gradients: list[Tensor], group: dict[str, float]
) -> list[Tensor]:
    """The same operations in the same order as in `LARS`, without a buffer of all tensors."""
    found = []
    for weight, gradient in zip(weights, gradients, strict=True):
        w_norm, g_norm = torch._foreach_norm([weight, gradient])
        ratio = group["trust_coefficient"] * w_norm / (g_norm + group["weight_decay"] * w_norm + 1e-8)
        ratio = (ratio / group["lr"]).clamp(max=1)
        usual = (w_norm > 0) & (g_norm > 0)
        decay = usual.to(ratio.dtype) * group["weight_decay"]
        found.append((weight * decay + gradient) * torch.where(usual, ratio, 1.0))
    return found


@pytest.mark.parametrize(
    "shapes", [[(64, 32, 3, 3), (1,), (7, 147)], [(2048, 3), (1024,), (1025,), (4, 3, 2, 2)]]
)
def test_a_buffer_of_all_tensors_changes_no_bit(shapes: list[tuple[int, ...]]) -> None:
    weights = [torch.randn(shape) for shape in shapes]
    gradients = [torch.randn(shape) * 10.0**-place for place, shape in enumerate(shapes)]
    gradients[-1].zero_()
    weights += [torch.zeros(3, 5), torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)]
    gradients += [torch.ones(3, 5), torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)]
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = LARS(parameters, lr=0.3, momentum=0.0, weight_decay=1e-3)
    expected = one_tensor_after_the_other(weights, gradients, optimizer.param_groups[0])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    torch._fused_sgd_(
        weights,
        expected,
        [],
        weight_decay=0.0,
        momentum=0.0,
        lr=0.3,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
    for parameter, weight in zip(parameters, weights, strict=True):
        assert torch.equal(parameter.detach(), weight)
