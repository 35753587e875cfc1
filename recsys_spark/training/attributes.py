"""What the attributes of users or items tell of their vectors: a mean, and what each value adds to it.

Shape legend: N users or items, F fields, L values of a field in a row, D numbers of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FIRST_TOLD = 2  # codes before it are "none" and "unseen", which tell nothing
_SWEEPS = 5
_SHRINKAGE = 5.0  # rows of a value after which half of what they say is believed

Codes = list[NDArray[np.int32]]  # F tables [N] or [N, L]


@dataclass(frozen=True)
class ByAttributes:
    """Vector = mean + the sum over fields of what the field's values add, averaged over the values of a row.

    Parameters
    ----------
    mean : float32 [D]
    added : list of float32 [codes, D]
        A table a field; 0 for values that nobody had.
    """

    mean: NDArray[np.float32]
    added: list[NDArray[np.float32]]

    @classmethod
    def fit(cls, codes: Codes, sizes: list[int], vectors: NDArray[np.float32]) -> ByAttributes:
        """Fit by backfitting (Hastie and Tibshirani 1986): each field in turn on what the others leave, shrunk.

        A value that n rows have is believed by n / (n + m): ridge regression, for fields with one value a row.

        Parameters
        ----------
        codes : list of int32 [N] or [N, L]
        sizes : list of int
            Codes of each field.
        vectors : float32 [N, D]
        """
        mean = vectors.mean(axis=0)
        left = vectors - mean
        shares = [_shares(each, size) for each, size in zip(codes, sizes, strict=True)]
        added = [np.zeros((size, vectors.shape[1]), np.float32) for size in sizes]
        for _ in range(_SWEEPS if len(codes) > 1 else 1):
            for field, share in enumerate(shares):
                rows = np.asarray(share.sum(axis=0), np.float32).reshape(-1, 1)
                moved = (share.T @ left - _SHRINKAGE * added[field]) / (rows + _SHRINKAGE)
                left -= share @ moved
                added[field] += moved
        return cls(mean, added)

    def tell(self, codes: Codes) -> NDArray[np.float32]:
        """Vectors by attributes, float32 [N, D]."""
        told = np.repeat(self.mean[None, :], len(codes[0]), axis=0)
        for each, added in zip(codes, self.added, strict=True):
            told += _shares(each, len(added)) @ added
        return told


def describes(codes: Codes) -> NDArray[np.bool_]:
    """Rows with an attribute that tells something, bool [N]."""
    return np.any([(_two(each) >= FIRST_TOLD).any(axis=1) for each in codes], axis=0)


def _shares(codes: NDArray[np.int32], size: int) -> csr_matrix:
    """Share of each code in a row, float32 [N, size]: an equal part for each value that tells something."""
    from scipy.sparse import csr_matrix

    values = _two(codes)
    told = (values >= FIRST_TOLD) & (values < size)
    count = told.sum(axis=1)
    rows, places = np.nonzero(told)
    share = (1.0 / np.maximum(count, 1)).astype(np.float32)[rows]
    return csr_matrix((share, (rows, values[rows, places])), shape=(len(values), size))


def _two(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    return codes[:, None] if codes.ndim == 1 else codes
