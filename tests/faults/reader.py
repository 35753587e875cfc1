"""A reader of all published tables, in a loop beside whatever happens to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import pandas as pd
import pyarrow as pa
from harness import currents

from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.tasks import read_file

_PAUSE = 4  # times what a read took
TIMES = ("report",)  # tables that show times: no two runs are alike


@dataclass
class Reader:
    """Takes tables as any reader would and sees that each is one complete run.

    Parameters
    ----------
    store : TableStore
    meant : dict of (table, day) to set of str
        Content hashes that readers may see; what is already shown when the reader begins must never be missing.

    Attributes
    ----------
    reads : int
    troubles : list of str
        Reads that found a table missing, torn, or mixed of several runs.
    seen : dict of (table, day) to list of str
        Content hashes in the order in which they were seen.
    """

    store: TableStore
    meant: dict[tuple[str, str], set[str]]
    reads: int = 0
    troubles: list[str] = field(default_factory=list)
    seen: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _digests: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, dt: str, before: str, undisturbed: Path) -> Reader:
        """Reader of a root on which the night ``dt`` is done after that of ``before``, both as in another root."""
        meant = {(table, day): {each.content_hash} for day in (before, dt)
                 for table, each in currents(undisturbed, day).items()}  # fmt: skip
        reader = cls(TableStore(str(undisturbed)), meant)
        reader.look_at_all()
        assert reader.troubles == [], reader.troubles
        return cls(TableStore(str(root)), meant, _digests=reader._digests)

    def look(self, table: str, dt: str) -> None:
        """Read one table once."""
        try:
            self._look(table, dt)
        except Exception as error:
            self.troubles.append(f"{table} of {dt}: {error!r}"[:500])
        self.reads += 1

    def look_at_all(self) -> None:
        """Read every table once, and the newest lists."""
        for table, dt in self.meant:
            self.look(table, dt)
        self.look_for_lists()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Read all the time while the block runs, with pauses that leave the machine to the night."""
        stop = threading.Event()

        def loop() -> None:
            for table, dt in cycle(self.meant):
                began = time.monotonic()
                self.look(table, dt)
                self.look_for_lists()
                if stop.wait(_PAUSE * (time.monotonic() - began)):
                    return

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def look_for_lists(self) -> None:
        """See that there are lists of some day."""
        try:
            assert self.store.latest("top_n") is not None, "no lists are published"
        except Exception as error:
            self.troubles.append(f"newest lists: {error!r}"[:500])

    def _look(self, table: str, dt: str) -> None:
        manifest = self.store.current(table, dt)
        seen = self.seen.setdefault((table, dt), [])
        if manifest is None:
            assert not seen, "it was there, and is gone"
            return
        digest = self._digest(manifest)
        if table not in TIMES:
            assert manifest.content_hash in self.meant[table, dt], f"unknown content in run {manifest.run_id}"
            known = self._digests.setdefault(manifest.content_hash, digest)
            assert digest == known, f"run {manifest.run_id} holds other rows than its content hash says"
        if not seen or seen[-1] != manifest.content_hash:
            seen.append(manifest.content_hash)

    def _digest(self, manifest: Manifest) -> int:
        """A number of the content by whole reads: no order of rows or files changes it."""
        damage = self.store.damage(manifest)
        assert not damage, f"run {manifest.run_id}: files missing or changed: {damage[:3]}"
        if TABLES[manifest.table].kind != "rows":
            return len([self.store.storage.read_bytes(manifest.path(each)) for each in manifest.files])
        parts = [read_file(self.store.storage, manifest.path(each)) for each in manifest.files]
        rows = pa.concat_tables(parts).to_pandas()
        assert len(rows) == manifest.rows, f"run {manifest.run_id}: {len(rows)} rows of {manifest.rows}"
        text = rows[sorted(rows.columns)].astype(str)
        return int(pd.util.hash_pandas_object(text, index=False).to_numpy().sum())
