"""95 % intervals of accuracies: how much a result depends on which validation images were drawn."""

import math

COVERAGE = 0.95


def bootstrap_interval(share: float, images: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of an accuracy, in [0, 1].

    The bootstrap draws as many images with replacement as there are, and counts the correct ones. An image is either
    correct or not. So this count has a binomial distribution, and its percentiles are known without a single draw:
    the interval is the limit of infinitely many resamples. It has no seed, and it is the same on every rank. The counts
    of images that are correct in top-1, only in top-5, and in neither are multinomial. Top-1 and top-5 are sums of
    these, so each of the two is binomial. For 0 and 1 the interval has no width, because no resample differs.

    Args:
        share: fraction of the images that are correct, over all ranks.
        images: number of images of all ranks, at least 1.

    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    import torch  # not needed by pages that show a Wilson interval

    counts = torch.arange(images + 1, dtype=torch.float64)
    p, most = torch.tensor(share, dtype=torch.float64), torch.tensor(images, dtype=torch.float64)
    ways = (most + 1).lgamma() - (counts + 1).lgamma() - (most - counts + 1).lgamma()
    log_p = ways + torch.xlogy(counts, p) + torch.special.xlog1py(most - counts, -p)
    below = log_p.exp().cumsum(0)  # [images + 1], probability of this count or fewer
    tail = (1 - COVERAGE) / 2
    # Rounding may leave the last sum below 1, but never below the wanted percentile.
    low, high = torch.searchsorted(below, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low / images, high / images


def bootstrap_intervals(top1: float, top5: float, images: int) -> dict[str, tuple[float, float]]:
    """Return the intervals of top-1 and top-5 accuracy under their names in eval.json."""
    return {
        "top1_bootstrap": bootstrap_interval(top1, images),
        "top5_bootstrap": bootstrap_interval(top5, images),
    }


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate with observed value `share` over `samples` (Wilson 1927, score interval)."""
    z = 1.959963984540054
    center = share + z * z / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)
