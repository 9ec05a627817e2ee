"""Dividing a data set so that every part has its share of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratified_split(presence: np.ndarray, shares: Sequence[float], seed: int = 0) -> np.ndarray:
    """Divides images by iterative stratification.

    The images of the class with the fewest left are given out first, each to the part that lacks most of that class (Sechidis
    et al., On the Stratification of Multi-Label Data, 2011, algorithm 1).

    Args:
        presence: bool [images, classes], which classes an image has.
        shares: of each part; they are scaled to a sum of 1.
        seed: of the order in which images are given out.

    Returns:
        int array [images]: the part of each image.
    """
    numbers = np.random.default_rng(seed)
    presence, of_parts = np.asarray(presence, bool), np.asarray(shares, float) / sum(shares)
    parts = np.full(len(presence), -1)
    wanted, wanted_of_class = of_parts * len(presence), of_parts[:, None] * presence.sum(0)
    order = numbers.permutation(len(presence))
    while (parts < 0).any():
        left = order[parts[order] < 0]
        counts = presence[left].sum(0)
        rarest = int(np.argmin(np.where(counts > 0, counts, np.iinfo(int).max)))
        chosen = left[presence[left, rarest]] if counts.any() else left
        for image in chosen:
            lack = wanted_of_class[:, rarest] if counts.any() else wanted
            part = max(range(len(shares)), key=lambda part: (lack[part], wanted[part]))
            parts[image] = part
            wanted[part] -= 1
            wanted_of_class[part] -= presence[image]
    return parts
