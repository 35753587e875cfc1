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
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark.errors import RecsysError
from recsys_spark.streaming.batch import Layout, kinds_of
from recsys_spark.streaming.prefetch import read_ahead
from recsys_spark.streaming.sample import Sample
from recsys_spark.streaming.window import RUN, Columns, Window, rows_of

ROW_WEIGHT = "row_weight"
_UNREADABLE = (OSError, ValueError, AttributeError)  # lost, torn, without a column; Arrow's are ValueErrors
_RUNS = 1  # runs of batches that are ready and wait
_RUNS_OF_A_BATCH = 64  # neighbours in a file are this small a part of a batch at most
_AHEAD = 3  # files that are decoded and wait; Petastorm begins no more before one is taken
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
        Batches that a thread hands over together; it is up to three times as many ahead. 0: none, and no thread.
    timeout : float
        Seconds to wait for a batch before the reader is given up; needs the thread.
    sample : Sample, optional
        Rows that are given, where it is not all of them; the shard's number of rows is theirs.
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
        ahead: int = 16,
        timeout: float = 600.0,
        sample: Sample | None = None,
    ) -> None:
        _check_versions()
        self.shard, self.columns, self.batch_size = shard, columns, batch_size
        self.seed, self.rank, self.window, self.together = seed, rank, window, together
        self.ahead, self.timeout, self.sample = ahead, timeout, sample
        self.pinned = torch.cuda.is_available()

    def __len__(self) -> int:
        return self.shard.steps

    def describe(self) -> dict[str, Any]:
        """What decides the batches of all ranks: a run can be resumed on a stream that says the same."""
        order = {"batch_size": self.batch_size, "seed": self.seed, "window": self.window, "together": self.together}
        sample = {} if self.sample is None else {"sample": self.sample.to_json()}
        return {**self.shard.whole, "columns": self.columns, **order, **sample}

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
            for run in self._epoch(epoch, shuffle, skip):
                yield from run
            return
        what = f"examples of rank {self.rank}, epoch {epoch}"
        with closing(read_ahead(lambda: self._epoch(epoch, shuffle, skip), _RUNS, self.timeout, what)) as runs:
            for run in runs:
                yield from run

    def _epoch(self, epoch: int, shuffle: bool, skip: int) -> Generator[list[dict[str, Tensor]], None, None]:
        """Batches, some at a time: to make, and to hand over, each by itself takes longer than to move its rows."""
        generator = np.random.default_rng([self.seed, epoch, self.rank])
        at_once = max(1, min(self.ahead, self.shard.steps))
        run: _Run | None = None
        read = step = 0
        with closing(self._windows(generator if shuffle else None, at_once * self.batch_size)) as windows:
            for window, start, stop in windows:
                if run is None:
                    run = _Run(window.kinds(), self.batch_size, at_once, self.pinned)
                if step + at_once > skip:
                    run.fill(window, start, stop)
                read += stop - start
                if read == (step + at_once) * self.batch_size:
                    if step + at_once > skip:
                        yield run.give(at_once)[max(0, skip - step) :]
                    step += at_once
        if read != self.shard.rows:
            raise RecsysError(
                f"{read:,} rows were read, the manifest says {self.shard.rows:,}",
                f"examples of rank {self.rank}, epoch {epoch}",
                "Files were changed or lost; run featurize again with --force.",
            )
        if run is None and self.shard.steps:
            kinds = kinds_of(sample_rows(self.shard.types, self.columns))
            run = _Run(kinds, self.batch_size, at_once, self.pinned)
        while run is not None and step < self.shard.steps:
            count = min(at_once, self.shard.steps - step)
            if step + count > skip:
                yield run.give(count)[max(0, skip - step) :]
            step += count

    def _windows(
        self, generator: np.random.Generator | None, at_once: int
    ) -> Generator[tuple[Window, int, int], None, None]:
        """Windows of several files each, with the places in its order of the next ``at_once`` rows, or of their rest.

        Meanwhile the next window's files are read, one with each share of this one that is given, not all at the end:
        the reader is three files ahead at most, and would wait.
        """
        urls = list(self.shard.urls)
        if generator is not None:
            generator.shuffle(urls)
        given = 0
        with closing(self._read_all(urls)) as groups:
            now = Window(self.columns)
            for group in islice(groups, self.window):
                now.add(group)
            while now.rows:
                self._arrange(now, generator)
                later, taken, start = Window(self.columns), 0, 0
                while start < now.rows:
                    stop = min(now.rows, start + at_once - given % at_once)
                    yield now, start, stop
                    given += stop - start
                    start = stop
                    while start * self.window > now.rows * taken:
                        taken += 1
                        for group in islice(groups, 1):
                            later.add(group)
                now = later

    def _read_all(self, urls: list[str]) -> Generator[Columns, None, None]:
        """Columns of each file in turn, of the rows that are to be given.

        Raises
        ------
        RecsysError
            A file's columns are not numbers, or of other types than those of the files before: of one with nulls, say.
        """
        kinds: dict[str, np.dtype[np.generic]] = {}
        with closing(_read_all(urls, self.columns)) as groups:
            for group in groups:
                found = kinds_of(group)
                other = [name for name, kind in kinds.items() if found[name] != kind]
                if other:
                    raise RecsysError(
                        f"column '{other[0]}' is {kinds[other[0]]} in some files and {found[other[0]]} in others",
                        f"examples of rank {self.rank}",
                        "Files were changed, or one has nulls; run featurize again with --force.",
                    )
                kinds = found
                some = group if self.sample is None else self.sample.take(group)
                if rows_of(some):
                    yield some

    def _arrange(self, window: Window, generator: np.random.Generator | None) -> None:
        if generator is None:
            window.as_they_lie()
        elif self.together:
            window.shuffle_together(generator, self.together)
        else:
            window.shuffle(generator, min(RUN, max(1, self.batch_size // _RUNS_OF_A_BATCH)))


class _Run:
    """Batches that are being filled, one after the other in memory.

    Parameters
    ----------
    kinds : dict of str to dtype
        Columns.
    batch_size, batches : int
    pinned : bool
    """

    def __init__(self, kinds: dict[str, np.dtype[np.generic]], batch_size: int, batches: int, pinned: bool) -> None:
        self.layout = Layout({**kinds, ROW_WEIGHT: np.dtype(np.float32)}, batches * batch_size)
        self.batch_size, self.pinned = batch_size, pinned
        self._begin()

    def _begin(self) -> None:
        self.block, self.filled = self.layout.block(self.pinned), 0

    def fill(self, window: Window, start: int, stop: int) -> None:
        """Put rows of a window's order behind the others."""
        window.take(start, stop - start, self.layout, self.block, self.filled)
        self.filled += stop - start

    def give(self, batches: int) -> list[dict[str, Tensor]]:
        """Batches, filled up with rows of weight 0 (copies of index 0, the padding); the next run begins."""
        columns = self.layout.tensors(self.block)
        columns[ROW_WEIGHT].numpy()[: self.filled] = 1.0  # by NumPy: torch would wake its threads for it
        for column in columns.values():
            column.numpy()[self.filled : batches * self.batch_size] = 0
        self._begin()
        each = zip(*(column.split(self.batch_size)[:batches] for column in columns.values()), strict=True)
        return [dict(zip(columns, batch, strict=True)) for batch in each]


def sample_rows(url: str, columns: list[str]) -> Columns:
    """Rows of one file: a uniform sample of all rows, where rows are globally shuffled."""
    return next(iter(_read((url,), columns)))


def _read_all(urls: list[str], columns: list[str]) -> Generator[Columns, None, None]:
    """Columns of each file in turn."""
    for start in range(0, len(urls), _OF_A_READER):
        yield from _read(tuple(urls[start : start + _OF_A_READER]), columns)


def _read(urls: tuple[str, ...], columns: list[str]) -> Generator[Columns, None, None]:
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


def _groups(urls: tuple[str, ...], columns: list[str]) -> Generator[Columns, None, None]:
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
