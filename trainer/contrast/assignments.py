"""Losses that predict a soft assignment of rows: to prototypes (SwAV, DINO), or to the images of the batch (ReSA).

Shapes: B is the number of rows on this rank, K the number of prototypes, V the number of views. D is the size of an
embedding, F that of the features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contrast.losses import full_precision
from trainer.distributed.collectives import all_reduce_sum

GLOBAL_VIEWS = 2
"""Number of global views, which come first and give the assignments. All further views are small."""


@torch.no_grad()
@full_precision
def sinkhorn(
    cosines: Sequence[Tensor], *, epsilon: float, iterations: int, weights: Tensor | None = None
) -> list[Tensor]:
    """Assign rows to prototypes, so that each prototype gets the same weight over the rows of all ranks.

    This is the Sinkhorn-Knopp algorithm of SwAV (Caron et al., NeurIPS 2020, section 3.1, equation 5). The constant
    factors of the authors' code cancel out here. Each view is assigned on its own. One message per iteration carries
    the sums of all views.

    Args:
        cosines: of rows with prototypes, for views of [B, K]. B may differ between ranks.
        epsilon: weight of the entropy. A larger one makes assignments smoother.
        iterations: number of iterations.
        weights: [B], how much each row counts in what prototypes get. None: 1.

    Returns assignments, whose rows sum to 1: [B, K] for each view. They have no gradient.
    """
    codes = torch.stack([(c - 1) / epsilon for c in cosines]).exp()  # [V, B, K], at most 1
    for _ in range(iterations):
        counted = codes if weights is None else codes * weights[:, None]
        codes = codes / all_reduce_sum(counted.sum(1, keepdim=True))
        codes = codes / codes.sum(2, keepdim=True)
    return list(codes)


@full_precision
def cross_view_entropy(targets: Sequence[Tensor], logits: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Compute the cross-entropy of each target with the predictions of all other views, the mean over these pairs.

    This is the multi-crop loss of SwAV (section 3.2) and DINO (equation 3). The papers write a sum over the pairs. The
    authors' code takes the mean, to which the published learning rates belong.

    Args:
        targets: assignments of the first views, [B, K] each.
        logits: predictions of all views in the same order, [B, K] each.
        temperature: divisor of the logits.

    Returns a scalar, the mean over this rank's rows.
    """
    total = torch.stack(list(targets)).sum(0)  # [B, K], what a view without a target of its own predicts
    terms = []
    for view, predicted in enumerate(logits):
        others = [target for index, target in enumerate(targets) if index != view]
        target = total if view >= len(targets) else torch.stack(others).sum(0)
        terms.append(F.cross_entropy(predicted / temperature, target))
    return torch.stack(terms).sum() / (len(targets) * (len(logits) - 1))


@torch.no_grad()
@full_precision
def assign_to_images(features: Tensor, keys: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Assign rows to the images of the global batch by their cosines, with each image as a prototype (ReSA).

    Args:
        features: [B, F], normalized here.
        keys: normalized features of the images of all ranks, [world * B, F], in rank order.
        epsilon: weight of the entropy, see `sinkhorn`.
        iterations: number of iterations of `sinkhorn`.

    Returns the assignment, whose rows sum to 1: [B, world * B]. It has no gradient.
    """
    [assignment] = sinkhorn([F.normalize(features, dim=1) @ keys.T], epsilon=epsilon, iterations=iterations)
    return assignment


@full_precision
def image_entropy(
    assignment: Tensor, queries: Sequence[Tensor], keys: Sequence[Tensor], *, temperature: float
) -> Tensor:
    """Compute the cross-entropy of an assignment to images with the cosines of different views, averaged over pairs.

    A query predicts the assignment of its image from its cosines with the keys of another view (Weng et al., ICML
    2025).

    Args:
        assignment: of this rank's rows to the images of all ranks, [B, world * B].
        queries: embeddings of V views, [B, D] each, normalized here.
        keys: normalized embeddings of the first views, of the images of all ranks: [world * B, D] each.
        temperature: divisor of the cosines.

    Returns a scalar, the mean over this rank's rows and the pairs of a query and a key of different views.
    """
    rows = [F.normalize(q, dim=1) for q in queries]
    pairs = [(q, k) for q in range(len(rows)) for k in range(len(keys)) if q != k]
    terms = [F.cross_entropy(rows[q] @ keys[k].T / temperature, assignment) for q, k in pairs]
    return torch.stack(terms).mean()
