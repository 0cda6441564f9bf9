"""What the recorded values mean: a plain name, a sentence and an axis for each."""

from collections.abc import Sequence
from typing import NamedTuple

TAU = "τ"
"""Name of the momentum of the EMA encoder, which is computed from its schedule."""
_PERCENT = (
    *("knn_online", "knn_momentum", "online_top1", "online_val_top1", "online_val_top5"),
    *("neighbor_agreement", "data_wait", "queue_filled"),
)
_COUNTS = ("skipped_steps", "bad_samples")
_LEAST_SPAN = 1e-3  # of the τ axis; rounding would be visible in less
_LEAST_LOSS_SPAN = 1e-2  # of the axis of a loss, relative to the loss


class Metric(NamedTuple):
    """A plain name of a value, and what it is and which values are good, in one or two short sentences."""

    label: str
    meaning: str


_KNN = (
    "Accuracy on validation images when the nearest training images vote on the class. Higher is better. The value at "
    "epoch 0 is from before training."
)
_METRICS = {
    "knn_online": Metric("kNN, online backbone", _KNN),
    "knn_momentum": Metric("kNN, momentum backbone", _KNN),
    "online_top1": Metric(
        "Online classifier, training accuracy",
        "Training images that a linear classifier gets right while it trains along. Higher is better.",
    ),
    "online_val_top1": Metric(
        "Online classifier, validation accuracy",
        "Validation images that this classifier gets right. Higher is better. Papers often publish this number.",
    ),
    "online_val_top5": Metric(
        "Online classifier, validation top-5",
        "Validation images whose class is among the five best of this classifier. Higher is better.",
    ),
    "online_loss": Metric(
        "Online classifier, loss",
        "Cross-entropy of the linear classifier that trains along. Lower is better.",
    ),
    "loss": Metric(
        "Loss, total",
        "What training minimizes. It should fall. Its level differs between methods and batch sizes.",
    ),
    "neighbor": Metric(
        "Loss, neighbors", "Contrast of each image with the neighbors of its other view. It should fall."
    ),
    "centroid": Metric(
        "Loss, centroids", "Contrast of each image with the centroid of its neighbors. It should fall."
    ),
    "feature": Metric(
        "Loss, features", "Contrast between the features of two views over the batch. It should fall."
    ),
    "invariance": Metric("Loss, invariance", "Distance between two views of an image. It should fall."),
    "variance": Metric("Loss, variance", "How far features vary too little over a batch. Near 0 is good."),
    "covariance": Metric(
        "Loss, covariance", "How much different features repeat each other. It should fall or stay low."
    ),
    "prediction": Metric(
        "Loss, prediction", "Distance between the views of an image and their mean. It should fall."
    ),
    "sigreg": Metric(
        "Loss, SIGReg",
        "How far embeddings are from a standard normal distribution. It should fall or stay low.",
    ),
    "trace": Metric(
        "Loss, trace",
        "How far whitened embeddings are from a variance of 1, summed over the batch. It should fall or stay low.",
    ),
    "z_std": Metric(
        "Spread of embeddings",
        "Standard deviation over a batch. 1/√D is the best for embeddings of size D, and 0 is a collapse to a point.",
    ),
    "z_rank": Metric(
        "Effective rank of embeddings",
        "Number of directions that embeddings use. Higher is better, and 1 is a collapse.",
    ),
    "features_std": Metric(
        "Spread of features",
        "Standard deviation of the backbone's features over a batch. 0 is a collapse to a point.",
    ),
    "features_rank": Metric(
        "Effective rank of features",
        "Number of directions that the backbone's features use. Higher is better, and 1 is a collapse.",
    ),
    "neighbor_agreement": Metric(
        "Neighbors of the same class",
        "Images whose nearest key in the queue has their class. Higher is better, and one in the number of classes is "
        "chance.",
    ),
    "neighbor_cosine": Metric(
        "Similarity of neighbors", "Cosine between images and their nearest keys. 1 is the same direction."
    ),
    "neighbor_age": Metric(
        "Age of neighbors",
        "Batches since the nearest keys entered the queue. About half of the batches that the queue holds is usual.",
    ),
    "queue_filled": Metric(
        "Queue filled", "Fraction of the queue that holds keys of images. It should reach 100 %."
    ),
    "ema_distance": Metric(
        "Distance of the EMA encoder",
        "Distance between its weights and the trained ones, relative to their norm. It should stay small and smooth.",
    ),
    "lr": Metric("Learning rate", "Step size of the optimizer, from the schedule."),
    TAU: Metric(
        "EMA momentum τ",
        "How slowly the EMA encoder follows, from the schedule. It ends at 1. That of MSF is constant. The axis does "
        "not start at 0.",
    ),
    "gradient_norm": Metric(
        "Norm of the gradient",
        "Length of the gradient before clipping. It should be steady, without rising peaks.",
    ),
    "skipped_steps": Metric(
        "Skipped steps",
        "Steps so far without an update because their gradient was broken. Few or none is good.",
    ),
    "images_per_second": Metric(
        "Training speed", "Images per second on all devices together. Higher is better."
    ),
    "data_wait": Metric(
        "Time spent waiting for data", "Fraction of each step without a batch to train on. Near 0 % is good."
    ),
    "bad_samples": Metric("Unreadable images", "Images that could not be decoded so far. 0 is good."),
}


def describe(name: str) -> Metric:
    """Return what a recorded value means. Values of methods of other packages keep their names."""
    if name in _METRICS:
        return _METRICS[name]
    if name.startswith("knn_"):
        return Metric(f"kNN, {name.removeprefix('knn_')} backbone", _KNN)
    if name.endswith("_share"):
        part = name.removesuffix("_share")
        return Metric(
            f"Gradient from the loss “{part}”",
            "Fraction of the gradient at the embeddings from this part of the loss. A part near 0 % has no effect.",
        )
    return Metric(name, "A value that the method records.")


def is_percent(name: str) -> bool:
    """Return whether a value is a fraction, which is shown in percent."""
    return name in _PERCENT or name.startswith("knn_") or name.endswith("_share")


def is_count(name: str) -> bool:
    """Return whether a value is a whole number."""
    return name in _COUNTS


def is_loss(name: str) -> bool:
    """Return whether a value is a loss or a part of one, whose changes matter more than its level."""
    return "loss" in name or describe(name).label.startswith("Loss, ")


def formatted(name: str, value: float) -> str:
    """Format a recorded value with its unit."""
    return f"{100 * value:.2f} %" if is_percent(name) else f"{value:.4g}"


def axis_limits(name: str, values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a value's axis, in percent for fractions.

    Percent end at 0 and 100. Other axes contain 0, so that a small change does not look like a large one. τ is an
    exception because all of it happens close to 1. A loss is another one if its values are close to each other and far
    from 0.
    """
    low, high = min(values), max(values)
    if is_percent(name):
        return min(0.0, 100 * low), max(100.0, 100 * high)
    if name == TAU:
        return low - max(0.05 * (1 - low), _LEAST_SPAN), max(1.0, high)
    if name.endswith("_cosine"):
        return (-1.0 if low < 0 else 0.0), max(1.0, high)
    if is_loss(name) and min(abs(low), abs(high)) > 0.5 * max(abs(low), abs(high)) and low * high > 0:
        room = 0.05 * max(high - low, _LEAST_LOSS_SPAN * max(abs(low), abs(high)))
        return low - room, high + room
    low, high = min(0.0, 1.05 * low), max(0.0, 1.05 * high)
    return (low, high) if low < high else (0.0, 1.0)
