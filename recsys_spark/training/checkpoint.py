"""Checkpoints that a kill cannot tear: content in one step, a checksum in front, the last few kept."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

import torch

from recsys_spark.progress import say
from recsys_spark.tables.storage import Storage

_DIGEST = 32  # bytes of SHA-256 before the content


class Checkpoints:
    """Checkpoints of one training run.

    Parameters
    ----------
    storage : Storage
    folder : str
        Relative to the root; the same for a run and its retries.
    keep : int
        Newest checkpoints that stay.
    """

    def __init__(self, storage: Storage, folder: str, keep: int) -> None:
        self.storage, self.folder, self.keep = storage, folder, keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint: tensors, numbers, text, lists and dicts of them."""
        buffer = BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        self.storage.write_bytes(self._name(step), hashlib.sha256(content).digest() + content)
        for old in self._steps()[: -self.keep]:
            self.storage.delete_file(self._name(old))

    def load(self) -> dict[str, Any] | None:
        """Newest whole checkpoint, or None; a torn one is passed over with a message."""
        for step in reversed(self._steps()):
            content = self.storage.read_bytes(self._name(step))
            digest, body = content[:_DIGEST], content[_DIGEST:]
            if hashlib.sha256(body).digest() != digest:
                say(f"checkpoint {self._name(step)} is torn; trying the one before it")
                continue
            state: dict[str, Any] = torch.load(BytesIO(body), weights_only=True)
            return state
        return None

    def clear(self) -> None:
        """Delete all of this run's checkpoints."""
        self.storage.delete_folder(self.folder)

    def _name(self, step: int) -> str:
        return f"{self.folder}/step-{step:06d}.pt"

    def _steps(self) -> list[int]:
        names = self.storage.names(self.folder, "file")
        return sorted(int(n.removeprefix("step-").removesuffix(".pt")) for n in names if n.endswith(".pt"))
