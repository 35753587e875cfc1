"""Which files the log has: decided by the spec alone, before the first row is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from recsys_spark.errors import RecsysError
from recsys_spark.generator.hashing import Ints, uniform
from recsys_spark.generator.rows import DAY
from recsys_spark.generator.spec import INITIAL_SHARE, LogSpec

LOG, REDELIVERED, UNREADABLE = "log", "redelivered", "unreadable"


@dataclass(frozen=True)
class FilePlan:
    """A file of the log.

    Parameters
    ----------
    number : int
        Seeds what is drawn; a redelivered file has the number of the one it repeats.
    kind : str
        log, redelivered or unreadable.
    path : str
        Below the log's root, dt=YYYY-MM-DD/part-00000.parquet.
    day : int
        Of the folder, counted from the first.
    cell_day : int
        Of most of its events.
    part, parts : int
        It holds the users whose number modulo ``parts`` is ``part``.
    rows : int
    bots : int
        Users with far too many events in it.
    """

    number: int
    kind: str
    path: str
    day: int
    cell_day: int
    part: int
    parts: int
    rows: int
    bots: int = 0


def day_start(spec: LogSpec, day: int) -> int:
    """Midnight of a day, in microseconds since 1970."""
    epoch = np.datetime64(spec.start, "D").astype(np.int64)
    return (int(epoch) + day) * DAY


def plan_files(spec: LogSpec) -> list[FilePlan]:
    """All files of the log.

    Raises
    ------
    RecsysError
        There are more files a day than users to spread over them.
    """
    weekday = np.array([(spec.start.toordinal() + day) % 7 for day in range(spec.days)])
    by_day = _shared(spec.rows, np.where(weekday < 5, 1.0, 1.2))
    files: list[FilePlan] = []
    for day, rows in enumerate(by_day.tolist()):
        parts = max(1, math.ceil(rows / spec.rows_per_file))
        if parts > INITIAL_SHARE * spec.users / 4:
            raise RecsysError(f"{parts:,} files a day are too many for {spec.users:,} users", "--users", "Give more.")
        for part, share in enumerate(_shared(rows, np.ones(parts)).tolist()):
            path = _path(spec, day, "part", part)
            files.append(FilePlan(len(files), LOG, path, day, day, part, parts, share))
    files = _with_bots(spec, files)
    copies = [_copy(spec, file) for file in _chosen(spec, files, "redelivered_file")]
    torn = [
        replace(file, number=len(files) + n, kind=UNREADABLE, path=_path(spec, file.day, "torn", n), rows=0)
        for n, file in enumerate(_chosen(spec, files, "unreadable_file"))
    ]
    return files + copies + torn


def _with_bots(spec: LogSpec, files: list[FilePlan]) -> list[FilePlan]:
    """Spread bots over the files, one at least where they are wanted; half of a file's rows are theirs at most."""
    share = spec.rate("extreme_activity")
    left = max(1, round(share * spec.rows / (1.75 * spec.activity_floor))) if share else 0
    bots = np.zeros(len(files), np.int64)
    room = np.array([file.rows // (4 * spec.activity_floor) for file in files])
    order = np.argsort(uniform(spec.seed, "bots", np.arange(len(files))))
    while left and (room > bots).any():
        chosen = order[(room > bots)[order]][:left]
        bots[chosen] += 1
        left -= len(chosen)
    return [replace(file, bots=int(number)) for file, number in zip(files, bots, strict=True)]


def _path(spec: LogSpec, day: int, stem: str, number: int) -> str:
    return f"dt={spec.day_name(day)}/{stem}-{number:05d}.{spec.log_format}"


def _shared(total: int, weights: np.ndarray) -> Ints:
    """Split a number by weights into whole numbers with the same sum."""
    edges = np.rint(np.cumsum(weights) / weights.sum() * total).astype(np.int64)
    return np.diff(edges, prepend=0)


def _chosen(spec: LogSpec, files: list[FilePlan], fault: str) -> list[FilePlan]:
    """A share of the files, at least one where the share is not 0."""
    order = np.argsort(uniform(spec.seed, fault[:8], np.arange(len(files))))
    count = math.ceil(spec.rate(fault) * len(files))
    return [files[place] for place in sorted(order[:count].tolist())]


def _copy(spec: LogSpec, file: FilePlan) -> FilePlan:
    """The same file once more. 'redelivered' sorts after 'part', so that the first one stays the original."""
    tomorrow = file.day + 1 < spec.days and uniform(spec.seed, "tomorrow", [file.number])[0] < 0.5
    day = file.day + int(tomorrow)
    return replace(file, kind=REDELIVERED, day=day, path=_path(spec, day, "redelivered", file.number))
