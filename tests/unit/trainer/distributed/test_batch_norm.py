import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from data_pipelines.errors import UserError
from trainer.distributed.batch_norm import (
    CrossRankBatchNorm,
    forward_per_view,
    require_group,
    synchronize_batch_norm,
)
from trainer.distributed.collectives import all_reduce_sum, rank, world_size


def rows_of(x: Tensor, sizes: list[int]) -> Tensor:
    return x.split(sizes)[rank()]


def normalize(module: nn.Module, x: Tensor, target: Tensor, sizes: list[int]) -> dict[str, Tensor]:
    module = synchronize_batch_norm(copy.deepcopy(module), torch.device("cpu"))
    own = rows_of(x, sizes).clone().requires_grad_()
    out = module(own)
    # every rank's loss is a mean over all rows, as after data-parallel averaging
    ((out - rows_of(target, sizes)) ** 3).sum().backward()
    assert own.grad is not None
    gradients = {name: all_reduce_sum(p.grad) for name, p in module.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "input": own.grad, **gradients, **dict(module.named_buffers())}


def check_against_the_whole_batch(
    run_ranks, module: nn.Module, x: Tensor, sizes: list[int], tolerance: float
) -> None:
    target = torch.randn_like(module(x))
    results = run_ranks(normalize, len(sizes), module, x, target, sizes)
    whole, inputs = copy.deepcopy(module), x.clone().requires_grad_()
    out = whole(inputs)
    ((out - target) ** 3).sum().backward()
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(torch.cat([r["out"] for r in results]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([r["input"] for r in results]), inputs.grad, **close)
    for result in results:
        for name, parameter in whole.named_parameters():
            torch.testing.assert_close(result[name], parameter.grad, **close)
        for name, buffer in whole.named_buffers():
            torch.testing.assert_close(result[name], buffer, **close)


def test_batch_norm_across_ranks_is_that_of_the_whole_batch(run_ranks) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).double()
    x = torch.randn(10, 3, 5, 5, dtype=torch.float64) * 2 + 5
    check_against_the_whole_batch(run_ranks, module, x, [5, 5], 1e-9)


def test_batch_norm_takes_uneven_batches_and_channels_last(run_ranks) -> None:
    module = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(7, 4, 3, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    check_against_the_whole_batch(run_ranks, module, x, [4, 1, 2], 1e-9)


def test_batch_norm_of_vectors(run_ranks) -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8)).double()
    check_against_the_whole_batch(run_ranks, module, torch.randn(8, 3, dtype=torch.float64), [4, 4], 1e-9)


def test_batch_norm_without_scale_and_offset_has_none_across_ranks_either(run_ranks) -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 2)).double()
    x, target = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    whole, inputs = copy.deepcopy(module), x.clone().requires_grad_()
    out = whole(inputs)
    ((out - target) ** 3).sum().backward()
    for number, found in enumerate(run_ranks(normalize, 2, module, x, target, [4, 4])):
        own = slice(4 * number, 4 * number + 4)
        torch.testing.assert_close(found["out"], out.detach()[own])
        torch.testing.assert_close(found["input"], inputs.grad[own])
        for name, parameter in whole.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad)
        assert (found["1.weight"] == 1).all()
        assert (found["1.bias"] == 0).all()


def names_across_ranks() -> tuple[list[str], list[str]]:
    norm = synchronize_batch_norm(nn.BatchNorm1d(8, affine=False), torch.device("cpu"))
    return list(norm.state_dict()), [name for name, _ in norm.named_parameters()]


def test_the_constants_are_neither_saved_nor_trained(run_ranks) -> None:
    wanted = ["running_mean", "running_var", "num_batches_tracked"]
    assert run_ranks(names_across_ranks, 2) == [(wanted, [])] * 2


def test_batch_norm_survives_a_mean_far_from_zero(run_ranks) -> None:
    torch.manual_seed(1)  # in one draw of five a sum of gradients cancels to less than its rounding
    module = nn.BatchNorm1d(4)
    x = torch.randn(64, 4) + 300  # a difference of sums of squares would lose every digit of the variance
    check_against_the_whole_batch(run_ranks, module, x, [32, 32], 5e-3)


def test_batch_norm_takes_bf16_with_weights_of_float32(run_ranks) -> None:
    x = torch.randn(8, 4, 3, 3).bfloat16()
    check_against_the_whole_batch(run_ranks, nn.BatchNorm2d(4), x, [4, 4], 0.1)


def passed(module: nn.Module, views: list[Tensor], together: bool) -> tuple[dict[str, Tensor], int]:
    """Outputs, gradients and buffers of a training pass over this rank's rows of each view, and its messages."""
    module = convert(copy.deepcopy(module))
    own = [rows_of(view, [3, 3]).clone().requires_grad_() for view in views]
    sent = 0

    def counted(plain: Callable[..., Any]) -> Callable[..., Any]:
        def send(*args: Any, **kwargs: Any) -> Any:
            nonlocal sent
            sent += 1
            return plain(*args, **kwargs)

        return send

    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_gather_single", "all_reduce"):
            patch.setattr(torch.distributed, name, counted(getattr(torch.distributed, name)))
        out = forward_per_view(module, own) if together else [module(view) for view in own]
        sum(((number + 1) * (o**3).sum() for number, o in enumerate(out)), torch.zeros(())).backward()
    found = {f"out {number}": o.detach() for number, o in enumerate(out)}
    found |= {f"input {number}": x.grad for number, x in enumerate(own) if x.grad is not None}
    found |= {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | dict(module.named_buffers()), sent


@pytest.mark.parametrize("channels_last", [False, True])
def test_views_that_go_through_together_have_moments_of_their_own(run_ranks, channels_last: bool) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
    )
    views = [torch.randn(6, 3, 5, 5) * (number + 1) + number for number in range(3)]
    if channels_last:
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    apart = run_ranks(passed, 2, module.double(), [v.double() for v in views], False)
    together = run_ranks(passed, 2, module.double(), [v.double() for v in views], True)
    for (one, many), (other, few) in zip(apart, together, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-10, atol=1e-12)
        assert (many, few) == (12, 4)  # of each of two layers one forward and one backward, a view or in all


def test_neighboring_views_of_one_size_go_through_together(run_ranks) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double()
    views = [torch.randn(6, 3, size, size).double() + size for size in (4, 4, 2, 2, 2, 4)]
    apart = run_ranks(passed, 2, module, views, False)
    together = run_ranks(passed, 2, module, views, True)
    for (one, many), (other, few) in zip(apart, together, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-10, atol=1e-12)
        assert (many, few) == (12, 6)  # one forward and one backward for each of 6 views, or of 3 groups


def convert(module: nn.Module) -> nn.Module:
    return synchronize_batch_norm(module, torch.device("cpu"))


def test_conversion_keeps_weights_names_and_frozen_parameters(run_ranks) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
    module[1].running_mean.normal_()
    converted = run_ranks(convert, 2, module)[0]
    assert isinstance(converted[1], CrossRankBatchNorm)
    assert not any(p.requires_grad for p in converted.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value)
    converted.eval(), module.eval()
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(converted(x), module(x))


def converted_and_not(name: str) -> tuple[bool, bool]:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0)
    converted = convert(copy.deepcopy(module))
    module.eval(), converted.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        return torch.equal(
            converted(x), module(x)
        ), converted.state_dict().keys() == module.state_dict().keys()


@pytest.mark.parametrize("name", ["efficientnet_b0", "densenet121", "regnety_002"])
def test_conversion_keeps_the_activations_inside_timms_norms(run_ranks, name: str) -> None:
    assert run_ranks(converted_and_not, 2, name)[0] == (True, True)


def test_timms_norm_with_an_activation_spans_the_ranks(run_ranks) -> None:
    module = nn.Sequential(BatchNormAct2d(4), nn.Conv2d(4, 2, 1)).double()
    check_against_the_whole_batch(
        run_ranks, module, torch.randn(8, 4, 3, 3, dtype=torch.float64), [4, 4], 1e-9
    )


def refusal(module: nn.Module) -> str:
    try:
        convert(module)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm3d(4)])
def test_norms_that_cannot_span_ranks_are_refused(run_ranks, norm: nn.Module) -> None:
    assert "parallel.batch_norm=rank" in run_ranks(refusal, 2, norm)[0]


def normalize_in_groups(module: nn.Module, x: Tensor, size: int) -> dict[str, Tensor]:
    module = synchronize_batch_norm(copy.deepcopy(module), torch.device("cpu"), size)
    own = x.chunk(world_size())[rank()].clone().requires_grad_()
    out = module(own)
    (out**3).sum().backward()
    assert own.grad is not None
    return {"out": out.detach(), "input": own.grad, "mean": module.get_buffer("running_mean")}


@pytest.mark.parametrize(("ranks", "size"), [(2, 1), (2, 2), (4, 2)])
def test_groups_of_ranks_share_moments(run_ranks, ranks: int, size: int) -> None:
    module = nn.BatchNorm2d(4).double()
    x = torch.randn(2 * ranks, 4, 3, 3, dtype=torch.float64)
    results = run_ranks(normalize_in_groups, ranks, module, x, size)
    for first in range(0, ranks, size):
        group, rows = results[first : first + size], x[2 * first : 2 * (first + size)].requires_grad_()
        whole = copy.deepcopy(module)
        out = whole(rows)
        (gradient,) = torch.autograd.grad((out**3).sum(), rows)
        torch.testing.assert_close(torch.cat([r["out"] for r in group]), out.detach())
        torch.testing.assert_close(torch.cat([r["input"] for r in group]), gradient)
        assert all(torch.allclose(r["mean"], whole.running_mean) for r in group)


@pytest.mark.parametrize(
    ("size", "ranks", "near"),
    [(5, 12, "4 or 6"), (16, 8, "8"), (2, 1, "1")],
)
def test_a_group_that_does_not_divide_is_refused_with_the_nearest_that_do(
    size: int, ranks: int, near: str
) -> None:
    with pytest.raises(UserError, match=f"set parallel.batch_norm_group to {near}$"):
        require_group(size, ranks)


def test_one_group_of_all_and_groups_that_divide_are_accepted() -> None:
    for size in (0, 1, 2, 4):
        require_group(size, 4)
