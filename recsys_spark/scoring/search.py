"""How the best items by the product of vectors are looked for, as the settings say."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.top_k import Catalogue


@dataclass(frozen=True)
class Search:
    """Small, hashable, sent to the workers.

    Parameters
    ----------
    precision : {"exact", "int8"}
        As in the settings ``candidates``.
    device : {"cpu", "cuda", "auto"}
        As ``launch.scoring_device`` in the settings.
    """

    precision: str = "exact"
    device: str = "cpu"

    @classmethod
    def of(cls, settings: Settings) -> Search:
        """As the settings say."""
        return cls(settings.candidates.precision, settings.launch.scoring_device)

    def catalogue(self, items: NDArray[np.float32], allowed: NDArray[np.bool_]) -> Catalogue:
        """Items ready for many calls, on the device that this process finds."""
        return Catalogue(items, allowed, precision=self.precision, device=device_of(self.device))


DEFAULT = Search()


def device_of(asked: str) -> str | None:
    """Device of torch for ``launch.scoring_device``; None for the processor, for which torch is not imported.

    Raises
    ------
    RecsysError
        A GPU is asked for, and there is none.
    """
    if asked == "cpu":
        return None
    try:
        import torch

        missing = "" if torch.cuda.is_available() else "torch sees no GPU"
    except ModuleNotFoundError:
        missing = "torch is not installed"
    if not missing:
        return "cuda"
    if asked == "auto":
        return None
    raise RecsysError(
        f"lists are to be made on a GPU, but {missing} on {socket.gethostname()}",
        "setting 'launch.scoring_device' = cuda",
        "Set it to cpu, or to auto: the lists are the same. Or see that every executor has a GPU.",
    )
