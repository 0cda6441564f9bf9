"""Projection of features to two dimensions, where similar features are close together."""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError

UMAP, T_SNE, PCA = "UMAP", "t-SNE", "PCA"
FEW = 30
"""Number of samples below which PCA is used, because neighborhoods carry no information."""
_WIDTH = 50
"""Number of principal components given to t-SNE. Later components add noise (van der Maaten, 2008)."""
_PERPLEXITY, _NEIGHBORS = 30, 15


def choose_way(how: str | None) -> str:
    """Return the projection method for a user's choice (`umap`, `t-sne` or `tsne`, `pca`, in any case).

    None selects UMAP if it is installed, else t-SNE.

    Raises:
        UserError: there is no such method, or UMAP is not installed.
    """
    installed = find_spec("umap") is not None
    if how is None:
        return UMAP if installed else T_SNE
    ways = {"umap": UMAP, "tsne": T_SNE, "pca": PCA}
    way = ways.get(how.lower().replace("-", ""))
    if way is None:
        raise UserError(
            f"there is no projection method {how!r}", where="--map", fix=f"choose one of {', '.join(ways)}"
        )
    if way == UMAP and not installed:
        raise UserError(
            "the package umap-learn is missing", where="--map", fix="run: pip install 'all4one[report]'"
        )
    return way


def project_2d(features: NDArray[np.float32], way: str, seed: int) -> tuple[NDArray[np.float32], str]:
    """Project features to the unit square. Only their directions count, as in kNN.

    Sources: McInnes, Healy, Melville, "UMAP", 2018; van der Maaten, Hinton, "Visualizing data using t-SNE", 2008.

    Args:
        features: `[N, F]`, finite.
        way: result of `choose_way`. Few samples, or samples that are all alike, are always projected by PCA.
        seed: seed of a random method.

    Returns:
        `[N, 2]` in [0, 1], with the same scale on both axes, and the method that was used.
    """
    from threadpoolctl import threadpool_limits

    norms = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.maximum(norms, np.finfo(np.float32).tiny)  # [N, F]
    if len(features) < FEW or np.ptp(directions, axis=0).max(initial=0) == 0:
        way = PCA
    # with threads, the order of sums varies and the map would not be reproducible
    with threadpool_limits(limits=1):
        if way == UMAP:
            places = _umap(directions, seed)
        elif way == T_SNE:
            places = _t_sne(directions, seed)
        else:
            places = _components(directions, 2, seed)
    return _fit(places), way


def _umap(directions: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    from umap import UMAP as Reducer

    reducer = Reducer(n_neighbors=_NEIGHBORS, random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(directions), np.float32)


def _t_sne(directions: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(directions) - 1) / 3)
    reducer = TSNE(perplexity=perplexity, random_state=seed)
    return np.asarray(reducer.fit_transform(_components(directions, _WIDTH, seed)), np.float32)


def _components(directions: NDArray[np.float32], width: int, seed: int) -> NDArray[np.float32]:
    """Return at most `width` principal components, and at least two columns."""
    from sklearn.decomposition import PCA as Reducer

    places = np.zeros((len(directions), 2), np.float32)
    if np.ptp(directions, axis=0).max(initial=0) == 0:
        return places
    found = Reducer(min(width, *directions.shape), random_state=seed).fit_transform(directions)
    return np.hstack([found, places[:, found.shape[1] :]]).astype(np.float32)


def _fit(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move and scale points `[N, 2]` into the unit square, with the narrower axis centered."""
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float((high - low).max()) or 1.0
    return ((places - (low + high) / 2) / extent + 0.5).clip(0, 1).astype(np.float32)
