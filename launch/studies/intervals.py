"""Half widths of 95 % intervals of a mean, in standard errors: for a number of seeds that was fixed before, and for one
that depends on what was seen."""

import math

CONFIDENCE = 0.95
EFFECT_VARIANCE = 25.0
"""Variance of the effects, in standard deviations of a difference, for which the interval at every number is narrow.
Paired differences of accuracies are often several standard deviations from the margin of a claim. The interval is valid
for any value."""


def for_fixed_number(samples: int) -> float:
    """Return the half width for independent normal values whose number was chosen before they were seen.

    This is Student's t. It is infinite for one value.
    """
    if samples < 2:
        return math.inf
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, samples - 1))


def for_every_number(samples: int) -> float:
    """Return the half width for independent normal values that may be looked at after each of them.

    With probability 95 %, the intervals of all numbers of values contain the mean. One may therefore stop at any
    moment, for any reason, and go on later. The interval is the set of means whose Bayes factor is below 1 / 0.05. The
    factor compares normal effect sizes with none (Gönen et al. 2005, "The Bayesian two-sample t test", for one sample).
    It is a martingale whatever the standard deviation is (Hendriksen, de Heide and Grünwald 2021, "Optional stopping
    with Bayes factors"), so that Ville's inequality holds.

    It is infinite for too few values.
    """
    if samples < 2:
        return math.inf
    spread = 1 + samples * EFFECT_VARIANCE
    limit = (math.sqrt(spread) / (1 - CONFIDENCE)) ** (2 / samples)
    if limit >= spread:
        return math.inf
    return math.sqrt((samples - 1) * (limit - 1) / (1 - limit / spread))
