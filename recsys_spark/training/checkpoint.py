"""Checkpoints that a kill cannot tear, that several ranks write together, and that another number of ranks can read.

A checkpoint is a folder. What all ranks hold alike is written once, by rank 0; what a rank alone holds is cut into
parts by keys that do not depend on who holds them (a user bucket), so that whoever owns the key next can take it::

    <folder>/step-000000120/common.pt             replicated state, from rank 0
    <folder>/step-000000120/part-<key>.pt         one file a part, from the rank that holds it
    <folder>/step-000000120/_rank-0001.json       that rank's parts with their checksums
    <folder>/step-000000120/_complete.json        written last: facts, and the checksum of every file

Each file is written under another name, flushed to the disk with its folder, and renamed. A folder counts only with its
marker, and only if every file has the marker's SHA-256: a folder cannot be renamed in one step on an object store, a
marker can be written last on all of them. ``step`` only grows within a run; the newest whole checkpoint wins, torn ones
are passed over with a message. Values are read by torch's weights-only unpickler: a checkpoint cannot run code.

    saver = Checkpoints(storage, "_checkpoints/x", keep=2)
    parts = ((f"bucket-{b:05d}", {"rows": ...}) for b in mine)
    saver.save(step, {"weights": ...}, parts, collective, facts={"epoch": 3})
    saved = saver.newest(collective)              # the same one on every rank
    weights = saved.common()["weights"]
    rows = saved.part(f"bucket-{b:05d}")["rows"]  # any rank, any number of ranks
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Collective

COMPLETE = "_complete.json"
_CHUNK = 1 << 24  # bytes read at a time


@dataclass(frozen=True)
class Saved:
    """A checkpoint on the disk.

    Parameters
    ----------
    storage : Storage
    folder : str
        Relative to the root.
    step : int
    ranks : int
        How many wrote it.
    facts : dict
        What ``save`` was given: plain JSON values, readable without opening a part.
    also : list of int
        Steps of earlier checkpoints that stay as long as this one does.
    files : dict of str to dict
        By key (``common``, or that of a part): ``file``, ``bytes``, ``sha256``.
    """

    storage: Storage
    folder: str
    step: int
    ranks: int
    facts: dict[str, Any]
    also: list[int]
    files: dict[str, dict[str, Any]]

    def common(self) -> dict[str, Any]:
        """What rank 0 wrote for all."""
        return self._load("common")

    @property
    def parts(self) -> list[str]:
        """Keys of all parts, whoever wrote them."""
        return sorted(self.files.keys() - {"common"})

    def part(self, key: str) -> dict[str, Any]:
        """Content of a part.

        Raises
        ------
        RecsysError
            There is no such part, or it is torn.
        """
        return self._load(key)

    def damage(self) -> str | None:
        """What is wrong with the files, or None; reads all of them."""
        return next((f"{entry['file']} is torn" for entry in self.files.values() if not self._is_whole(entry)), None)

    def _load(self, key: str) -> dict[str, Any]:
        if key not in self.files:
            raise RecsysError(f"there is no part '{key}'", self.storage.url(self.folder), "Delete the folder.")
        entry = self.files[key]
        if not self._is_whole(entry):
            raise RecsysError(
                f"{entry['file']} is torn or not to be seen from here",
                self.storage.url(self.folder),
                "All ranks must see one and the same root; run again, and an earlier checkpoint is taken.",
            )
        path = f"{self.folder}/{entry['file']}"
        source: Any = self.storage.path(path) if self.storage.is_local else BytesIO(self.storage.read_bytes(path))
        state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
        return state

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        path, digest, size = f"{self.folder}/{entry['file']}", hashlib.sha256(), 0
        if not self.storage.exists(path):
            return False
        with self.storage.fs.open_input_stream(self.storage.path(path)) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return size == entry["bytes"] and digest.hexdigest() == entry["sha256"]


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

    def save(
        self,
        step: int,
        common: dict[str, Any],
        parts: Iterable[tuple[str, dict[str, Any]]],
        collective: Collective,
        facts: dict[str, Any],
        also: Iterable[int] = (),
    ) -> None:
        """Write a checkpoint together; every rank calls it at the same step.

        Parameters
        ----------
        step : int
            Larger than that of all checkpoints before.
        common : dict
            Tensors, numbers, text, lists and dicts of them; taken from rank 0 only.
        parts : iterable of (key, dict)
            This rank's own; one at a time is in memory. A key belongs to one rank only. May be empty.
        collective : Collective
        facts : dict
            Plain JSON values, taken from rank 0 only.
        also : iterable of int
            Steps of earlier checkpoints that stay as long as this one does.

        Raises
        ------
        RecsysError
            Two ranks wrote a key, or rank 0 does not see what another rank wrote.
        """
        folder = self._name(step)
        mine = {key: self._write(f"{folder}/part-{key}.pt", content) for key, content in parts}
        if collective.rank != 0:
            self.storage.write_json(f"{folder}/{_rank_file(collective.rank)}", mine)
            collective.barrier()
            return
        mine["common"] = self._write(f"{folder}/common.pt", common)
        collective.barrier()  # all parts are on the disk
        for rank in range(1, collective.size):
            theirs = self._of_rank(folder, rank)
            twice = sorted(mine.keys() & theirs.keys())
            if twice:
                raise RecsysError(f"two ranks hold part '{twice[0]}'", self.storage.url(folder), "Mend the task.")
            mine |= theirs
        content = {"step": step, "ranks": collective.size, "facts": facts, "also": sorted(set(also)), "files": mine}
        self.storage.write_json(f"{folder}/{COMPLETE}", {"content": content, "sha256": _digest(content)})
        self._prune(step)

    def newest(self, collective: Collective, unfit: Callable[[Saved], str | None] = lambda saved: None) -> Saved | None:
        """Newest whole checkpoint, the same on every rank, or None; every rank calls it.

        Rank 0 reads all files of the checkpoints in question and chooses, so that ranks cannot choose differently.
        Those that it passed over are deleted: the run will come to their steps again.

        Parameters
        ----------
        collective : Collective
        unfit : callable, optional
            Says why a whole checkpoint is passed over, or None; asked on rank 0 only.

        Raises
        ------
        RecsysError
            This rank does not see what rank 0 chose.
        """
        chosen = self._choose(unfit) if collective.rank == 0 else None
        step = int(collective.sum(torch.tensor([0 if chosen is None else chosen.step + 1]))[0]) - 1
        if step < 0 or chosen is not None:
            return chosen
        found = self.at(step)
        if found is None:
            raise RecsysError(
                f"rank {collective.rank} does not see the checkpoint of step {step}, rank 0 does",
                self.storage.url(self._name(step)),
                "All ranks must see one and the same root.",
            )
        return found

    def at(self, step: int) -> Saved | None:
        """Checkpoint of a step by its marker, which is whole; None where there is none. Its files are not read."""
        path = f"{self._name(step)}/{COMPLETE}"
        if not self.storage.exists(path):
            return None
        try:
            marker = json.loads(self.storage.read_bytes(path))
            content, digest = marker["content"], marker["sha256"]
        except (ValueError, KeyError, TypeError):  # torn
            return None
        if _digest(content) != digest:
            return None
        return Saved(self.storage, self._name(step), **content)

    def clear(self) -> None:
        """Delete all of this run's checkpoints."""
        self.storage.delete_folder(self.folder)

    def _choose(self, unfit: Callable[[Saved], str | None]) -> Saved | None:
        found, passed_over = None, []
        for step in reversed(self._steps()):
            found = self.at(step)
            reason = "it is not complete" if found is None else found.damage() or unfit(found)
            if found is not None and reason is None:
                break
            found = None
            passed_over.append(step)
            say(f"checkpoint {self._name(step)} is passed over: {reason}")
        for step in passed_over:  # the run goes on from an earlier step, and will write these names anew
            self.storage.delete_folder(self._name(step))
        return found

    def _write(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        with self.storage.writing(path) as stream:
            counted = _Counted(stream)
            torch.save(_owned(content), cast(IO[bytes], counted))  # it only writes
        return {"file": path.rsplit("/", 1)[1], "bytes": counted.bytes, "sha256": counted.digest.hexdigest()}

    def _of_rank(self, folder: str, rank: int) -> dict[str, dict[str, Any]]:
        path = f"{folder}/{_rank_file(rank)}"
        if not self.storage.exists(path):
            raise RecsysError(
                f"rank 0 does not see what rank {rank} wrote",
                self.storage.url(path),
                "All ranks must write to one and the same root.",
            )
        parts: dict[str, dict[str, Any]] = self.storage.read_json(path)
        return parts

    def _prune(self, newest: int) -> None:
        """Delete all but the newest complete ones and those that stay with them.

        Later folders are left alone: another rank may have begun with the next checkpoint.
        """
        steps = [step for step in self._steps() if step <= newest]
        complete = {step: found for step in steps if (found := self.at(step)) is not None}
        kept = set(sorted(complete)[-self.keep :])
        kept |= {step for each in kept for step in complete[each].also}
        for step in steps:
            if step not in kept:
                self.storage.delete_folder(self._name(step))

    def _name(self, step: int) -> str:
        return f"{self.folder}/step-{step:09d}"

    def _steps(self) -> list[int]:
        names = self.storage.names(self.folder, "folder")
        return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))


class _Counted:
    """Passes bytes on; keeps their number and checksum."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        self.stream.write(data)
        return len(data)

    def flush(self) -> None:
        self.stream.flush()


def _rank_file(rank: int) -> str:
    return f"_rank-{rank:04d}.json"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _owned(value: Any) -> Any:
    """The same values without gradients and on the CPU; a slice is copied, else torch would write the whole tensor."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        return plain if plain.untyped_storage().nbytes() == plain.numel() * plain.element_size() else plain.clone()
    if isinstance(value, dict):
        return {key: _owned(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_owned(each) for each in value)
    return value
