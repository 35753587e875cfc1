"""What ranks tell of their end: a file a rank beside the job's, which the launcher reads whatever started the ranks.

When one rank fails the others lose it in the middle of a collective, and fail too. Their word for it is not what a
person needs to see; it is told apart here from the cause.
"""

from __future__ import annotations

import sys
from typing import Any

from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import is_lost_peer
from recsys_spark.trouble import explain

_PREFIX = "failed-"
_SAYS = "recsys-spark: "
_NOT_KEPT = " (said here alone: it could not be written)"


def note_failure(storage: Storage, job_file: str, rank: int, error: BaseException) -> str:
    """Keep why a rank ends, with its rank and step as far as they are known; returns the text.

    Where it cannot be kept, as on a full disk, which may be the cause itself, the text says so: see ``unkept``.
    """
    known = explain(error, storage.uri)
    text = " ".join(str(known or error).split())
    if known is None:
        text = f"{type(error).__name__}: {text}"
    where = next(iter(getattr(error, "__notes__", [])), f"rank {rank}")
    told = text if where in text else f"{where}: {text}"
    cause = not is_lost_peer(error)
    content = {"rank": rank, "error": told, "cause": cause}
    try:
        storage.write_json(f"{_folder(job_file)}/{_PREFIX}{rank:04d}.json", content)
    except OSError:
        return f"{told}{_NOT_KEPT}" if cause else told
    return told


def unkept(line: str) -> str | None:
    """The cause that a line of a rank's output tells, where that is the only place that has it."""
    return line.removeprefix(_SAYS).removesuffix(_NOT_KEPT) if line.endswith(_NOT_KEPT) else None


def say_failure(told: str) -> None:
    """Print such a text, in one line of the rank's output."""
    print(f"{_SAYS}{told}", file=sys.stderr, flush=True)


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
