"""Streams training examples out of Parquet with Petastorm, in shuffled batches of tensors.

Spark has shuffled all rows, or all users, and written one row group a file, equal to a row. Here whole files are dealt
out to ranks, read column by column, and permuted in a window of several files. Every rank yields the same number of
batches: a synchronous update would hang otherwise. Rows that fill up the last batch have weight 0.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.errors import RecsysError
from recsys_spark.streaming.cut import cut
from recsys_spark.streaming.prefetch import read_ahead

ROW_WEIGHT = "row_weight"
_UNREADABLE = (OSError, ValueError, AttributeError)  # lost, torn, without a column; Arrow's are ValueErrors
_AHEAD = 4  # files that are decoded and wait
_OF_A_READER = 64  # files whose footers are read before the first row comes


@dataclass(frozen=True)
class Shard:
    """Files of one rank.

    Parameters
    ----------
    urls : tuple of str
        Files, one row group each.
    rows : int
        Rows in them, by the manifest.
    steps : int
        Batches an epoch, the same on every rank.
    types : str
        A file that tells the columns' types to a rank without files of its own.
    whole : dict
        The files of all ranks: their number and rows, a digest of names and rows in order, and the ranks they are
        dealt out to.
    """

    urls: tuple[str, ...]
    rows: int
    steps: int
    types: str = ""
    whole: dict[str, Any] = field(default_factory=dict, compare=False)


def shards(files: list[tuple[str, int]], ranks: int, batch_size: int) -> list[Shard]:
    """Deal files out to ranks and settle the steps of an epoch.

    Parameters
    ----------
    files : list of (url, rows)
        From the manifest, in its order.
    ranks : int
    batch_size : int
        Rows of one rank's batch.
    """
    return settle(files, [files[rank::ranks] for rank in range(ranks)], batch_size)


def settle(files: list[tuple[str, int]], dealt: list[list[tuple[str, int]]], batch_size: int) -> list[Shard]:
    """Settle the steps of an epoch, given each rank's files: as many as the fullest rank needs.

    Parameters
    ----------
    files : list of (url, rows)
        All of them.
    dealt : list of lists of (url, rows)
        Those of each rank.
    batch_size : int
        Rows of one rank's batch.
    """
    rows = [sum(count for _, count in mine) for mine in dealt]
    steps = -(-max(rows) // batch_size)
    types = files[0][0] if files else ""
    whole = {**_identity(files), "ranks": len(dealt), "steps": steps}
    return [
        Shard(tuple(url for url, _ in mine), count, steps, types, whole)
        for mine, count in zip(dealt, rows, strict=True)
    ]


def _identity(files: list[tuple[str, int]]) -> dict[str, Any]:
    """What tells one list of files from another, wherever they lie: names, rows and order, without the folders."""
    names = [[url.rsplit("/", 1)[-1], rows] for url, rows in files]
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
    return {"files": len(files), "rows": sum(rows for _, rows in files), "digest": digest}


class ExampleStream:
    """Batches of one rank, a pass at a time.

    Parameters
    ----------
    shard : Shard
    columns : list of str
        Numeric columns to read.
    batch_size : int
    seed : int
        Order of epoch e on this rank is a function of (seed, e, rank): a resumed run sees the same batches.
    rank : int
    window : int
        Files that are mixed with each other.
    together : str, optional
        Column whose equal neighbours in a file stay neighbours.
    ahead : int
        Batches that a thread prepares while a step runs; 0: none, and no thread.
    timeout : float
        Seconds to wait for a batch before the reader is given up; needs the thread.
    """

    def __init__(
        self,
        shard: Shard,
        columns: list[str],
        batch_size: int,
        seed: int,
        rank: int = 0,
        window: int = 8,
        together: str | None = None,
        ahead: int = 4,
        timeout: float = 600.0,
    ) -> None:
        _check_versions()
        self.shard, self.columns, self.batch_size = shard, columns, batch_size
        self.seed, self.rank, self.window, self.together = seed, rank, window, together
        self.ahead, self.timeout = ahead, timeout
        self.pinned = torch.cuda.is_available()

    def __len__(self) -> int:
        return self.shard.steps

    def describe(self) -> dict[str, Any]:
        """What decides the batches of all ranks: a run can be resumed on a stream that says the same."""
        order = {"batch_size": self.batch_size, "seed": self.seed, "window": self.window, "together": self.together}
        return {**self.shard.whole, "columns": self.columns, **order}

    def epoch(self, epoch: int, shuffle: bool = True, skip: int = 0) -> Generator[dict[str, Tensor], None, None]:
        """Yield ``len(self)`` batches: a tensor [batch_size] a column, and ``row_weight`` (0 for padding rows).

        Parameters
        ----------
        epoch : int
        shuffle : bool
        skip : int
            Batches at the beginning that are left out: read, which is a small part of the work, but not given.

        Raises
        ------
        RecsysError
            Rows read are not the rows of the manifest, a file cannot be read, or nothing came for too long.
        """
        if not self.ahead:
            yield from self._epoch(epoch, shuffle, skip)
            return
        what = f"examples of rank {self.rank}, epoch {epoch}"
        yield from read_ahead(lambda: self._epoch(epoch, shuffle, skip), self.ahead, self.timeout, what)

    def _epoch(self, epoch: int, shuffle: bool, skip: int) -> Generator[dict[str, Tensor], None, None]:
        generator = np.random.default_rng([self.seed, epoch, self.rank])
        left: dict[str, NDArray[np.generic]] = {}
        read = steps = 0
        for rows in cut(self._windows(generator if shuffle else None), self.batch_size):
            count = len(rows[self.columns[0]])
            read += count
            if count < self.batch_size:
                left = rows  # the last ones
                break
            if steps >= skip:
                yield self._batch(rows)
            steps += 1
        if read != self.shard.rows:
            raise RecsysError(
                f"{read:,} rows were read, the manifest says {self.shard.rows:,}",
                f"examples of rank {self.rank}, epoch {epoch}",
                "Files were changed or lost; run featurize again with --force.",
            )
        if not left and steps < self.shard.steps:
            left = {name: values[:0].copy() for name, values in sample_rows(self.shard.types, self.columns).items()}
        for step in range(steps, self.shard.steps):
            if step >= skip:
                yield self._batch(left)
            left = {name: values[:0] for name, values in left.items()}

    def _windows(self, generator: np.random.Generator | None) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Rows of several files at a time, permuted."""
        urls = list(self.shard.urls)
        if generator is not None:
            generator.shuffle(urls)
        with closing(_read_all(urls, self.columns)) as groups:
            while parts := list(islice(groups, self.window)):
                rows = {name: np.concatenate([part[name] for part in parts]) for name in self.columns}
                parts.clear()
                if generator is not None:
                    count = len(rows[self.columns[0]])
                    together = self.together
                    order = _shuffled(rows[together], generator) if together else generator.permutation(count)
                    for name in self.columns:
                        rows[name] = rows[name][order]
                yield rows

    def _batch(self, rows: dict[str, NDArray[np.generic]]) -> dict[str, Tensor]:
        """Tensors of a batch, filled up with rows of weight 0 (copies of index 0, the padding)."""
        count = len(rows[self.columns[0]])
        weight = torch.zeros(self.batch_size)
        weight[:count] = 1.0
        batch = {ROW_WEIGHT: weight}
        for name in self.columns:
            tensor = torch.from_numpy(np.ascontiguousarray(rows[name]))
            padding = torch.zeros(self.batch_size - count, dtype=tensor.dtype)
            batch[name] = torch.cat([tensor, padding]) if count < self.batch_size else tensor
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if self.pinned else batch


def _shuffled(keys: NDArray[np.generic], generator: np.random.Generator) -> NDArray[np.int64]:
    """Random order of rows in which neighbours with equal keys stay neighbours."""
    if not len(keys):
        return np.zeros(0, np.int64)
    start = np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1)
    length = np.diff(np.append(start, len(keys)))
    chosen = generator.permutation(len(start))
    start, length = start[chosen], length[chosen]
    return np.repeat(start - np.cumsum(length) + length, length) + np.arange(len(keys))


def sample_rows(url: str, columns: list[str]) -> dict[str, NDArray[np.generic]]:
    """Rows of one file: a uniform sample of all rows, where rows are globally shuffled."""
    return next(iter(_read((url,), columns)))


def _read_all(urls: list[str], columns: list[str]) -> Generator[dict[str, NDArray[np.generic]], None, None]:
    """Columns of each file in turn; while a window is permuted, the next one's first files are decoded."""
    for start in range(0, len(urls), _OF_A_READER):
        yield from _read(tuple(urls[start : start + _OF_A_READER]), columns)


def _read(urls: tuple[str, ...], columns: list[str]) -> Generator[dict[str, NDArray[np.generic]], None, None]:
    """Columns of each file in turn."""
    try:
        yield from _groups(urls, columns)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise RecsysError(
            f"the file cannot be read ({reason})",
            ", ".join(_unreadable(urls, columns)),
            "Files were changed or lost; run the stage that wrote them again with --force.",
        ) from error


def _unreadable(urls: tuple[str, ...], columns: list[str]) -> tuple[str, ...]:
    """Those of some files that cannot be read one by one; all of them, where each can."""
    bad = []
    for url in urls:
        try:
            for _ in _groups((url,), columns):
                pass
        except _UNREADABLE:
            bad.append(url)
    return tuple(bad) or urls


def _groups(urls: tuple[str, ...], columns: list[str]) -> Generator[dict[str, NDArray[np.generic]], None, None]:
    """Row groups as they come. One worker thread: with two the order is not the same from run to run."""
    if not urls:
        return
    # Petastorm uses Arrow calls that warn of their end. Not by catch_warnings: that is for a program of one thread.
    warnings.filterwarnings("ignore", module=r"petastorm(\.|$)")
    logging.getLogger("petastorm").setLevel(logging.ERROR)
    from petastorm import make_batch_reader

    with make_batch_reader(
        list(urls),
        schema_fields=list(columns),
        reader_pool_type="thread",
        workers_count=1,
        shuffle_row_groups=False,
        num_epochs=1,
        results_queue_size=_AHEAD,
    ) as reader:
        for group in reader:
            yield {name: getattr(group, name) for name in columns}


@cache
def _check_versions() -> None:
    """Refuse pairs that are known to lose rows or not to start."""
    petastorm, arrow = version("petastorm"), version("pyarrow")
    if petastorm == "0.13.1":
        raise RecsysError("petastorm 0.13.1 loses row groups", "installed packages", "Install petastorm==0.12.1.")
    if int(arrow.split(".")[0]) > 14:
        raise RecsysError(
            f"pyarrow {arrow} lacks what petastorm {petastorm} needs",
            "installed packages",
            "Install pyarrow==14.0.2.",
        )
