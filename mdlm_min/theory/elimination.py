"""Parity by linear algebra over GF(2): what the data alone allow, without a network or training. A check of Theorem 4.2 (T1).

n + a few random uncorrupted samples determine the secret set. So when a model does not learn parity from 2,000 samples of
20 bits, the reason is not a lack of information.
"""

import numpy as np


def secret_by_elimination(bits: np.ndarray, label: np.ndarray) -> list[int] | None:
    """The secret set S with label = sum of the bits in S mod 2. None if the samples leave more than one S, or none.

    bits: integers 0/1, [samples, n]; label: 0/1, [samples]. Gauss-Jordan elimination, O(samples n^2) bit operations.
    """
    rows = np.concatenate([bits, label[:, None]], axis=1).astype(bool)
    n = bits.shape[1]
    for column in range(n):
        pivots = np.flatnonzero(rows[column:, column])
        if not len(pivots):
            return None
        rows[[column, column + pivots[0]]] = rows[[column + pivots[0], column]]
        others = rows[:, column].copy()
        others[column] = False
        rows[others] ^= rows[column]
    if rows[n:, n].any():
        return None
    return np.flatnonzero(rows[:n, n]).tolist()
