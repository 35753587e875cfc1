"""What ranks tell of their end: a file a rank beside the job's, which the launcher reads whatever started the ranks.

When one rank fails the others lose it in the middle of a collective, and fail too. Their word for it is not what a
person needs to see; it is told apart here from the cause.
"""

from __future__ import annotations

from typing import Any

from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import is_lost_peer

_PREFIX = "failed-"


def note_failure(storage: Storage, job_file: str, rank: int, error: BaseException) -> str:
    """Keep why a rank ends, with its rank and step as far as they are known; returns the text."""
    text = " ".join(str(error).split())
    if not isinstance(error, RecsysError):
        text = f"{type(error).__name__}: {text}"
    where = next(iter(getattr(error, "__notes__", [])), f"rank {rank}")
    told = text if where in text else f"{where}: {text}"
    content = {"rank": rank, "error": told, "cause": not is_lost_peer(error)}
    storage.write_json(f"{_folder(job_file)}/{_PREFIX}{rank:04d}.json", content)
    return told


def failures(storage: Storage, job_file: str) -> tuple[list[str], list[str]]:
    """What ranks told, by rank: the causes, and what those noticed that lost another rank."""
    found: list[dict[str, Any]] = [storage.read_json(path) for path in _files(storage, job_file)]
    causes, noticed = ([each["error"] for each in found if each["cause"] is kind] for kind in (True, False))
    return causes, noticed


def forget_failures(storage: Storage, job_file: str) -> None:
    """Delete what an earlier attempt left."""
    for path in _files(storage, job_file):
        storage.delete_file(path)


def _files(storage: Storage, job_file: str) -> list[str]:
    folder = _folder(job_file)
    names = [name for name in storage.names(folder, "file") if name.startswith(_PREFIX) and name.endswith(".json")]
    return [f"{folder}/{name}" for name in names]


def _folder(job_file: str) -> str:
    return job_file.rpartition("/")[0]
