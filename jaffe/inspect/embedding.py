"""Features in two dimensions, to be looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError, suggest

METHODS = ("pca", "tsne")


def embed(
    features: Any, method: str = "pca", *, dimensions: int = 2, perplexity: float = 30.0, seed: int = 0
) -> np.ndarray:
    """Items with many features as points in the plane.

    Args:
        features: (items, ...), as ``features`` gives them.
        method: ``"pca"``, the directions of most variance; ``"tsne"``, which keeps neighbours together (van der Maaten
            and Hinton 2008), from the first 50 principal components.
        dimensions: of the points.
        perplexity: of t-SNE: about how many neighbours count; fewer where there are few items.
        seed: of t-SNE. One seed, one picture.

    Returns:
        (items, dimensions).

    Raises:
        JaffeError: the method is not one of these; there are fewer items or features than dimensions; or features are
            not finite, or all the same.
    """
    from sklearn.decomposition import PCA

    if method not in METHODS:
        raise JaffeError(f"method is one of {', '.join(METHODS)}; received {method!r}{suggest(str(method), METHODS)}")
    x = np.asarray(features, np.float32)
    x = x.reshape(len(x), -1)
    if min(x.shape) < dimensions or len(x) < 4:
        raise JaffeError(f"expected at least {max(dimensions, 4)} items of at least {dimensions} features; received "
                         f"{x.shape[0]} of {x.shape[1]}")
    if method == "tsne" and dimensions > 3:
        raise JaffeError(f"t-SNE gives up to 3 dimensions; received {dimensions}")
    if wrong := int((~np.isfinite(x)).any(1).sum()):
        raise JaffeError(f"expected finite features; {wrong} of {len(x)} items have NaN or infinite ones")
    if (x == x[0]).all():
        raise JaffeError(f"the features of all {len(x)} items are the same: nothing tells them apart")
    if method == "pca":
        return PCA(dimensions, svd_solver="full").fit_transform(x)
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    if min(x.shape) > 50:
        x = PCA(50, svd_solver="full").fit_transform(x)
    near = min(perplexity, (len(x) - 1) / 3)
    # On busy cores OpenMP's threads wait in circles: 300 items took 25 s and more, and 1 s with one thread.
    with threadpool_limits(1 if len(x) < 2000 else None):
        return TSNE(dimensions, perplexity=near, init="pca", random_state=seed).fit_transform(x)
