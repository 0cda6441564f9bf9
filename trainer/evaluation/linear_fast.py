"""Fast linear probe: multinomial logistic regression on frozen features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.distributed.collectives import all_reduce_sum, rank
from trainer.evaluation.checks import find_labeled, require_same_width
from trainer.evaluation.measures.accuracy import count_right
from trainer.evaluation.measures.calibration import BINS, calibration_error, calibration_sums
from trainer.evaluation.measures.intervals import wilson_interval
from trainer.evaluation.sharded_rows import ShardedRows, held_out_mask

L2_SWEEP = tuple(10.0 ** (exponent / 2) for exponent in range(2, -13, -1))
"""L2 strengths to try, strongest first: 10 to 1e-6, two per decade."""

_MAX_ITERATIONS = 1000
_SWEEP_TOLERANCE = (
    1e-4  # of the gradient; with weak penalties a tighter tolerance takes several times as long
)
_PATIENCE = 4  # the sweep ends after this many strengths without improvement on the held-out part


@dataclass(frozen=True)
class LinearResult:
    """Result of a linear classifier on the test samples. Accuracies are fractions in [0, 1]."""

    top1: float
    top5: float
    interval: tuple[float, float]
    """95 % Wilson score interval of `top1`."""
    l2: float
    """Strength of the penalty `l2 / 2 |W|²`, added to the mean cross-entropy."""
    held_out_top1: float
    """Accuracy with that strength on the held-out part of the training data."""
    train_top1: float
    converged: bool
    """Whether the last fit reached its optimum."""
    calibration_error: float
    """Expected calibration error of the probabilities of the test samples, in [0, 1]."""


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier of C classes that was fitted to features of size F."""

    weights: Tensor
    """`[C, F + 1]`, with the bias last."""
    mean: Tensor
    """`[F]`, by which features are standardized before."""
    std: Tensor
    """`[F]`."""
    l2: float
    held_out_top1: float
    train_top1: float
    converged: bool
    """These four as in `LinearResult`."""

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits `[b, C]` of features `[b, F]`."""
        return _logits(self.weights, (features.to(self.weights.dtype) - self.mean) / self.std)


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int,
    seed: int,
    train_ids: Tensor | None = None,
    validation_share: float = 0.1,
) -> LinearResult:
    """Fit a linear classifier with `fit_linear` and test it with `linear_accuracy`. The test set chooses nothing.

    Args:
        train_features: `[n, F]` of this rank.
        train_labels: `[n]`.
        test_features: `[m, F]` of this rank.
        test_labels: `[m]`.
        num_classes: C.
        seed: seed of the held-out part.
        train_ids: `[n]`, see `fit_linear`.
        validation_share: fraction of each class that is held out, see `fit_linear`.

    Raises:
        UserError: on all ranks: as for `fit_linear` and `linear_accuracy`.
    """
    # Both are checked before the fit, which may take long.
    find_labeled(train_features, train_labels, num_classes, "training")
    find_labeled(test_features, test_labels, num_classes, "test")
    require_same_width(train_features, test_features)
    classifier = fit_linear(
        train_features,
        train_labels,
        num_classes=num_classes,
        seed=seed,
        train_ids=train_ids,
        validation_share=validation_share,
    )
    return linear_accuracy(classifier, test_features, test_labels)


@torch.no_grad()
def fit_linear(
    train_features: Tensor,
    train_labels: Tensor,
    *,
    num_classes: int,
    seed: int,
    train_ids: Tensor | None = None,
    validation_share: float = 0.1,
) -> LinearClassifier:
    """Fit a linear classifier by L-BFGS.

    Every rank calls with its own part of the training set, of any size, and gets the same classifier. Features never
    leave their rank. The ranks add up loss and gradient, and all take the same step. The number of ranks changes only
    the rounding of these sums. Besides the features, a rank holds 50 times the weights `[C, F + 1]` and what a chunk
    of samples needs, which is less than 1 GB for ImageNet and a ResNet-50.

    Features are standardized with the training set's mean and standard deviation, so that L-BFGS needs tens of
    iterations instead of hundreds. The L2 strength of `L2_SWEEP` with the best accuracy on a stratified, held-out part
    of the training set is chosen. A tie is decided by the lowest cross-entropy there. The whole training set is then
    fitted. Samples with label -1 are skipped. The same input and seed give the same result on the same machine with
    the same number of ranks.

    Args:
        train_features: `[n, F]` of this rank. float64 is computed in float64, and all other types in float32.
        train_labels: `[n]` integers below `num_classes`.
        num_classes: C.
        seed: seed of the held-out part.
        train_ids: `[n]` rows of the dataset's index, disjoint between ranks. They define the order of the samples, from
            which the held-out part is drawn. None: the samples of the ranks follow each other.
        validation_share: fraction of each class that is held out, in (0, 1). At least one sample of a class with two.

    Raises:
        UserError: on all ranks: shapes or labels do not match, features are not finite, the training set has fewer
            than two classes, or no class has two samples.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share must be in (0, 1), not {validation_share}")
    train_labels, known = find_labeled(train_features, train_labels, num_classes, "training")
    held_out = held_out_mask(train_labels, known, train_ids, num_classes, validation_share, seed)  # [n] bool
    return fit_chosen(train_features, train_labels, known, held_out, num_classes)


@torch.no_grad()
def fit_chosen(
    features: Tensor, labels: Tensor, known: Tensor, held_out: Tensor, num_classes: int
) -> LinearClassifier:
    """Fit a linear classifier as `fit_linear` does, with a held-out part that the caller has drawn.

    Args:
        features: `[n, F]` of this rank.
        labels: `[n]` integers below `num_classes`.
        known: `[n]` bool, whether a sample has a label.
        held_out: `[n]` bool, the labeled samples that choose the L2 strength, at least one over all ranks.
        num_classes: C.
    """
    l2, held_out_top1, weights = _choose_l2(
        ShardedRows.choose(features, labels, known & ~held_out),
        ShardedRows.choose(features, labels, held_out),
        num_classes,
    )
    train = ShardedRows.choose(features, labels, known)
    scale = train.compute_mean_and_std()
    train = train.standardized(scale)
    weights, converged = fit(train, l2, weights)
    train_top1, _ = _accuracy(weights, train)
    return LinearClassifier(weights, *scale, l2, held_out_top1, train_top1, converged)


@torch.no_grad()
def linear_accuracy(classifier: LinearClassifier, features: Tensor, labels: Tensor) -> LinearResult:
    """Return the accuracy of a classifier over the samples of all ranks. Samples with label -1 are skipped.

    Args:
        classifier: the classifier, the same on all ranks.
        features: `[m, F]` of this rank, of any size.
        labels: `[m]`.

    Raises:
        UserError: on all ranks: shapes or labels do not match, features are not finite, or no sample has a label.
    """
    labels, tested = find_labeled(features, labels, len(classifier.weights), "test")
    test = ShardedRows.choose(features, labels, tested).standardized((classifier.mean, classifier.std))
    top1, top5 = _accuracy(classifier.weights, test)
    interval, error = wilson_interval(top1, test.total), _calibration_error(classifier.weights, test)
    chosen = classifier.l2, classifier.held_out_top1, classifier.train_top1, classifier.converged
    return LinearResult(top1, top5, interval, *chosen, error)


def fit(
    rows: ShardedRows, l2: float, start: Tensor, *, tolerance: float | None = None
) -> tuple[Tensor, bool]:
    """Minimize `mean cross-entropy + l2 / 2 |W|²` over weights `[C, F + 1]`. The bias is last and not penalized.

    Every rank calls with its own rows and the same weights, and gets the same result.

    The fit ends when no entry of the gradient exceeds `tolerance`, by default 1e-7 in float64 and 1e-5 in float32.
    Returns the weights, and whether the gradient came within ten times the tolerance.
    """
    weights = start.clone()
    if tolerance is None:
        tolerance = 1e-7 if rows.dtype == torch.float64 else 1e-5
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=_MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, weights.grad = _objective(weights, rows, l2)
        return loss

    optimizer.step(closure)
    _, gradient = _objective(weights, rows, l2)
    return weights, bool(gradient.abs().max() <= 10 * tolerance)


def _choose_l2(fitted: ShardedRows, tested: ShardedRows, num_classes: int) -> tuple[float, float, Tensor]:
    """Return the best strength on the held-out samples, its accuracy there and its weights `[C, F + 1]`."""
    scale = fitted.compute_mean_and_std()
    fitted, tested = fitted.standardized(scale), tested.standardized(scale)
    weights = scale[0].new_zeros(num_classes, len(scale[0]) + 1)
    best_score, best_l2, best_weights = (-1.0, 0.0), L2_SWEEP[0], weights
    without_gain = 0
    for l2 in L2_SWEEP:
        weights, _ = fit(fitted, l2, weights, tolerance=_SWEEP_TOLERANCE)
        top1, _ = _accuracy(weights, tested)
        cross_entropy, _ = _objective(weights, tested, l2=0)
        score = (top1, -cross_entropy.item())
        if score > best_score:
            best_score, best_l2, best_weights, without_gain = score, l2, weights, 0
        else:
            without_gain += 1
        if without_gain == _PATIENCE:
            break
    return best_l2, best_score[0], best_weights


def _objective(weights: Tensor, rows: ShardedRows, l2: float) -> tuple[Tensor, Tensor]:
    """Return value `[]` and gradient `[C, F + 1]` over the rows of all ranks.

    They are in closed form, so that only one chunk's logits exist at a time.
    """
    matrix, bias = weights[:, :-1], weights[:, -1]
    # Losses are summed in float64, because the line search compares differences below float32 precision.
    # The penalty counts once, so only the first rank adds it to its sum.
    loss = (l2 if rank() == 0 else 0) / 2 * matrix.double().square().sum()
    gradient = torch.zeros_like(weights)
    for features, wanted in rows.chunks():
        log_p = torch.addmm(bias, features, matrix.T).log_softmax(1)  # [c, C]
        loss -= log_p.gather(1, wanted[:, None]).double().sum() / rows.total
        error = log_p.exp_().scatter_add_(1, wanted[:, None], log_p.new_full((len(features), 1), -1))
        gradient[:, :-1].addmm_(error.T, features)
        gradient[:, -1] += error.sum(0)
    loss, gradient = all_reduce_sum(loss), all_reduce_sum(gradient)
    gradient /= rows.total
    gradient[:, :-1].add_(matrix, alpha=l2)
    return loss, gradient


def _accuracy(weights: Tensor, rows: ShardedRows) -> tuple[float, float]:
    right = torch.zeros(2, dtype=torch.int64, device=weights.device)
    for features, wanted in rows.chunks():
        right += count_right(_logits(weights, features)[:, None], wanted)[0]
    top1, top5 = (all_reduce_sum(right).double() / rows.total).tolist()
    return top1, top5


def _calibration_error(weights: Tensor, rows: ShardedRows) -> float:
    sums = torch.zeros(3, BINS, dtype=torch.float64, device=weights.device)
    for features, wanted in rows.chunks():
        sums += calibration_sums(_logits(weights, features), wanted)
    return calibration_error(sums)


def _logits(weights: Tensor, features: Tensor) -> Tensor:
    """Return the logits `[c, C]` of features `[c, F]`."""
    return torch.addmm(weights[:, -1], features, weights[:, :-1].T)
