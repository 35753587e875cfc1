"""What the loop needs to know of that which is trained, and of the batches it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


class Task(Protocol):
    """What is trained. One that holds rows which no other rank holds is a ``Sharded`` task too."""

    metric: str  # name of the validation figure that chooses the epoch; larger is better

    def begin(self, epoch: int) -> None:
        """Set all randomness of an epoch (from 0) from the seed, the epoch and the rank."""

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """Update once; return the sum of the loss over rows, and of their weights.

        ``progress`` is the share of all steps that are done, for a schedule of the learning rate.

        Raises
        ------
        NotFinite
            On every rank, before the update, where the loss or a gradient of any rank is not finite.
        """

    def validate(self) -> dict[str, float]:
        """Validation figures, the same on every rank; none where there is nothing to validate on."""

    def generators(self) -> dict[str, torch.Generator]:
        """Generators that ``begin`` seeds and steps draw from, by name, beside torch's own."""

    def weights(self) -> dict[str, Tensor]:
        """Trained tensors that all ranks hold alike (not copies)."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs beside the weights, where all ranks hold it alike."""

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights back, and the state if given."""


@runtime_checkable
class Sharded(Protocol):
    """A task whose ranks hold parts of the model that the others do not."""

    def parts(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Own weights and their optimizer state, by keys that do not depend on the number of ranks."""

    def load_parts(self, read: Callable[[str], dict[str, Any]]) -> None:
        """Take back the parts that this rank owns now: ``read(key)`` gives what ``parts`` gave, on whatever rank."""


class Stream(Protocol):
    """Batches of this rank; the same number on every rank."""

    batch_size: int

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, shuffle: bool = True, skip: int = 0) -> Generator[dict[str, Tensor], None, None]:
        """Batches of a pass, without the first ``skip``; a generator, closed by whoever stops early."""

    def describe(self) -> dict[str, Any]:
        """What decides the batches of all ranks, as JSON values; ``ranks`` is one of them."""
