"""Linear probes whose features are distributed over real processes, against one process with all of them."""

import weakref
from dataclasses import asdict
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data_pipelines.errors import UserError
from trainer.distributed.collectives import rank, world_size
from trainer.evaluation import sharded_rows
from trainer.evaluation.linear_fast import fit, linear_probe
from trainer.evaluation.low_shot import low_shot
from trainer.evaluation.sharded_rows import CHUNK, ShardedRows

pytestmark = pytest.mark.slow
CLASSES = [str(n) for n in range(10)]
TRAIN = 1001  # the ranks have unequal parts


def digits(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    features, labels = load_digits(return_X_y=True)
    return torch.from_numpy(features).to(dtype), torch.from_numpy(labels)


def own(x: Tensor) -> Tensor:
    """Every world-th sample, as the loaders give them."""
    return x[rank() :: world_size()]


def probes(dtype: torch.dtype, unlabeled: int) -> list[dict[str, Any]]:
    """The fast probe and a low-shot one, on this rank's part."""
    features, labels = digits(dtype)
    index_labels = labels[:TRAIN].numpy().copy()
    given = labels.clone()
    given[:unlabeled] = -1
    ids = torch.arange(TRAIN)
    train, test = (own(features[:TRAIN]), own(given[:TRAIN])), (own(features[TRAIN:]), own(labels[TRAIN:]))
    probe = linear_probe(*train, *test, num_classes=10, seed=0, train_ids=own(ids))
    few = low_shot(
        *train, own(ids), *test, share=0.1, seeds=range(2), index_labels=index_labels, classes=CLASSES
    )
    return [asdict(probe), *few.subsets]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Counts are equal. The calibration error depends on the last bits of the weights, as other sums do."""
    one, other = dict(one), dict(other)
    errors = one.pop("calibration_error", 0.0), other.pop("calibration_error", 0.0)
    assert errors[0] == pytest.approx(errors[1], rel=1e-6, abs=1e-12)
    assert one == other


@pytest.mark.parametrize(("ranks", "unlabeled"), [(2, 40), (3, 0)])
def test_the_result_does_not_depend_on_the_number_of_ranks(run_ranks, ranks, unlabeled):
    alone = probes(torch.float64, unlabeled)
    for found in run_ranks(probes, ranks, torch.float64, unlabeled):
        for one, expected in zip(found, alone, strict=True):
            assert_same(one, expected)


def weights_of(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and fitted weights."""
    features, labels = digits(dtype)
    rows = ShardedRows.choose(own(features), own(labels), own(torch.arange(len(labels)) % 5 > 0))
    mean, std = rows.compute_mean_and_std()
    return mean, std, fit(rows.standardized((mean, std)), 1e-2, mean.new_zeros(10, 65))[0]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
def test_statistics_and_weights_are_those_of_one_process(run_ranks, dtype, rtol):
    alone = weights_of(dtype)
    first, second = run_ranks(weights_of, 2, dtype)
    for one, other, expected in zip(first, second, alone, strict=True):
        assert one.equal(other)
        torch.testing.assert_close(one, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def test_a_pass_that_standardizes_again_computes_the_same(monkeypatch):
    usual = probes(torch.float32, 40)
    monkeypatch.setattr(sharded_rows, "BLOCK", 1)
    assert probes(torch.float32, 40) == usual


def empty_part() -> dict[str, Any]:
    """The second rank has no training sample at all."""
    features, labels = digits(torch.float64)
    mine = slice(0, 600) if rank() == 0 else slice(0, 0)
    sets = features[mine], labels[mine], own(features[600:]), own(labels[600:])
    return asdict(linear_probe(*sets, num_classes=10, seed=0))


def test_a_rank_may_have_no_sample(run_ranks):
    first, second = run_ranks(empty_part, 2)
    assert first == second
    assert_same(first, empty_part())


def refused() -> str:
    features, labels = digits(torch.float32)
    mine = own(features[:50]).clone()
    if rank() == 1:
        mine[3, 3] = torch.nan
    try:
        linear_probe(mine, own(labels[:50]), mine, own(labels[:50]), num_classes=10, seed=0)
    except UserError as error:
        return error.what
    return ""


def test_an_error_of_one_rank_is_raised_on_all(run_ranks):
    assert run_ranks(refused, 2) == ["training features are not finite"] * 2


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that operations made and that still exist."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            key = t.untyped_storage()._cdata if isinstance(t, Tensor) else 0
            if key and key not in given | self._known:
                self._known.add(key)
                size = t.untyped_storage().nbytes()
                self._live += size
                self.peak = max(self.peak, self._live)
                weakref.finalize(t.untyped_storage(), self._release, key, size)
        return out

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


SAMPLES, WIDTH = 100_000, 128


def most_memory() -> tuple[int, int, int]:
    """Bytes of this rank's features, most bytes besides, and the bound that `linear_probe` states."""
    sharded_rows.BLOCK = 2**20  # in this process: the features are small enough for one block
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (SAMPLES,), generator=generator)
    centers = torch.randn(10, WIDTH, generator=generator)
    mine = own(labels)
    features = centers[mine] + torch.randn(len(mine), WIDTH, generator=generator)
    with Allocations() as allocations:
        linear_probe(
            features,
            mine,
            features[:100],
            mine[:100],
            num_classes=10,
            seed=0,
            train_ids=own(torch.arange(SAMPLES)),
        )
    weights = 4 * 10 * (WIDTH + 1)
    chunk = 4 * CHUNK * (3 * WIDTH + 4 * 10)
    of_labels = 8 * 8 * SAMPLES
    return 4 * features.numel(), allocations.peak, 50 * weights + chunk + of_labels


def test_a_rank_keeps_its_own_features_and_little_more(run_ranks):
    for features, most, bound in run_ranks(most_memory, 2):
        assert features == 4 * WIDTH * SAMPLES // 2
        print(
            f"a rank's features {features / 1e6:.1f} MB, besides {most / 1e6:.1f} MB, bound {bound / 1e6:.1f} MB"
        )
        assert most < bound < 0.9 * features
