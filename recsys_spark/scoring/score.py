"""Stage ``score``: lists for every user, a file for each user bucket.

A task reads the histories of its buckets, ranks, and writes the rows itself: nothing is shuffled, and no row passes
through the JVM. The item vectors are files that the workers of a host map into memory together. A bucket that is done
stays done: its file lies in a folder named by what the lists follow from until all are there, so that a run after a
kill goes on with the others.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_spark import columns as c
from recsys_spark.arms import ARM, B
from recsys_spark.cuts import FINAL, cut
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.scoring.candidates import USERS_AT_ONCE
from recsys_spark.scoring.chosen import block_lists
from recsys_spark.scoring.rank import Recipe, for_ids, recipe
from recsys_spark.scoring.rows import Names, schema_of, to_arrow, writing
from recsys_spark.scoring.sources.state import SOURCE_TABLES
from recsys_spark.scoring.ways import CHAMPION, MODELS, Arm, Way, check_models, ways_of
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.champion import named
from recsys_spark.tables.histories import UserBlock
from recsys_spark.tables.layout import index_size
from recsys_spark.tables.storage import Storage
from recsys_spark.tables.tasks import files_by_partition, read_file, run_tasks, write_file

_ROWS_OF_A_GROUP = 256_000
_USERS_OF_PRODUCTS = 960  # at a time, where no block has shapes that BLAS would see: 20 blocks of the kernel
_LOOK = 10.0  # seconds between looks at how far it is


@dataclass(frozen=True)
class ScoreJob:
    """What a task needs; small, and sent to the workers.

    Parameters
    ----------
    how : Recipe
    root : str
    n : int
        Places of a list.
    histories, item_ids, lists : str
        Folders, relative to the root.
    users : dict of int to str
        File with the names of each bucket's users.
    items : int
        Places of an array by item index.
    versions : tuple of (str, str)
        Columns that are the same for all rows.
    explain : bool
        As in the settings ``score``.
    arm : Arm, optional
        Of an online test: only its users get a list, in files of their own.
    """

    how: Recipe
    root: str
    n: int
    histories: str
    item_ids: str
    lists: str
    users: dict[int, str]
    items: int
    versions: tuple[tuple[str, str | None], ...]
    explain: bool
    arm: Arm | None = None

    def name(self, bucket: int) -> str:
        """File of a bucket's lists."""
        return f"part-{bucket:05d}{'-b' if self.arm and self.arm.name == B else ''}.parquet"

    def file(self, bucket: int) -> str:
        """Where the lists of a bucket go."""
        return f"{self.lists}/{self.name(bucket)}"

    def told(self, bucket: int) -> str:
        """What is told of a bucket that is done."""
        return f"{self.lists}/_{self.name(bucket).removesuffix('.parquet')}.json"

    def done(self, there: set[str], bucket: int) -> bool:
        """Whether the files in the folder have the bucket's lists, and what is told of them."""
        return {each.rpartition("/")[2] for each in (self.file(bucket), self.told(bucket))} <= there


def score(work: Work) -> list[Manifest]:
    """Write ``top_n`` for every known user; readers see it after ``publish``.

    Raises
    ------
    RecsysError
        A model was trained on other tables of ids or features than those at hand, or the ranker on another retrieval
        model; both versions are named.
    """
    store = work.store
    ways = ways_of(work)
    for way in ways:
        if way.model != CHAMPION:
            check_models(work)
    scratch = f"_scoring/{work.stamp.fingerprint}"
    for left in store.storage.names("_scoring", "folder"):
        if left != work.stamp.fingerprint:  # of a run that was killed, and whose tables or settings are others by now
            store.storage.delete_folder(f"_scoring/{left}")
    jobs = [_job(way, scratch) for way in ways]
    for job in jobs:  # one after the other: a worker keeps the state of one model
        _make_lists(work, job)
    done = [(job, bucket) for job in jobs for bucket in sorted(job.users)]
    told = [store.storage.read_json(job.told(bucket)) for job, bucket in done]
    content = sum(each["content"] for each in told) % 2**64
    folder = store.folder("top_n", work.stamp)
    store.storage.make_folder(folder)
    for job, bucket in done:
        store.storage.fs.move(store.storage.path(job.file(bucket)), store.storage.path(f"{folder}/{job.name(bucket)}"))
    facts: dict[str, Any] = {"models": named(ways[0].work.inputs)}
    if len(ways) > 1:
        facts["arms"] = {way.arm: {"model": way.model, "models": named(way.work.inputs)} for way in ways}
        test = work.settings.experiment  # as it was on this night
        facts["experiment"] = {"name": test.name, "share": test.share}
    manifest = store.seal(work.spark, "top_n", work.stamp, sum(each["rows"] for each in told), facts, content)
    store.storage.delete_folder(scratch)
    return [manifest]


def _job(way: Way, scratch: str) -> ScoreJob:
    """What the tasks of one way to make lists need."""
    work, storage, test = way.work, way.work.store.storage, way.work.settings.experiment
    versions = [(f"{name}_version", work.inputs[model].content_hash) for name, model in MODELS.items()]
    return ScoreJob(
        how=for_ids(recipe(work, cut(work.dt, work.settings.split, FINAL)), work.inputs),
        root=storage.uri,
        n=work.settings.score.n,
        histories=work.inputs["histories"].folder,
        item_ids=work.inputs["item_ids"].folder,
        lists=scratch,
        users=files_by_partition(storage, work.inputs["user_ids"].folder),
        items=index_size(work.inputs["item_ids"]),
        versions=tuple([*versions, (ARM, way.arm)] if test.name else versions),
        explain=work.settings.score.explain,
        arm=Arm(way.arm, test.name, test.share) if test.name and way.arm else None,
    )


def _make_lists(work: Work, job: ScoreJob) -> None:
    """Write the lists of all buckets that have none yet."""
    storage = work.store.storage
    buckets = sorted(job.users)
    there = set(storage.names(job.lists, "file"))
    open_ones = [each for each in buckets if not job.done(there, each)]
    if len(open_ones) < len(buckets):
        say(f"score: {len(buckets) - len(open_ones)} of {len(buckets)} buckets were done before")
    with _Watch(storage, job, buckets, len(buckets) - len(open_ones)):
        shares = dealt(open_ones, work.spark.sparkContext.defaultParallelism)
        task = partial(_score_buckets, job=job, shares=shares)
        told = run_tasks(work.spark, len(shares), task, "lists")
    if told:
        say(f"score: at most {max(row['peak_mib'] for row in told):,} MiB in a worker")


def dealt(buckets: list[int], cores: int) -> list[list[int]]:
    """Buckets of each task: half of a core's part of what is left, and an eighth of all at most.

    Long tasks first, since each has a cost of its own, and single buckets last, so that no core waits long for another
    one (guided self-scheduling, Polychronopoulos and Kuck 1987). At most, since executors may come later than this.
    """
    shares, first = [], 0
    while first < len(buckets):
        size = max(1, min((len(buckets) - first) // (2 * cores), len(buckets) // 8))
        shares.append(buckets[first : first + size])
        first += size
    return shares


def _name(bucket: int) -> str:
    return f"part-{bucket:05d}.parquet"


def _score_buckets(number: int, job: ScoreJob, shares: list[list[int]]) -> list[dict[str, Any]]:
    """Runs on the executors: the lists of some buckets' users, a file a bucket."""
    storage = Storage(job.root)
    for bucket in shares[number]:
        if not storage.exists(job.told(bucket)):  # done by an earlier try of this task
            _score_bucket(bucket, job)
    return [{"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}]


def _score_bucket(bucket: int, job: ScoreJob) -> None:
    storage = Storage(job.root)
    names = read_file(storage, job.users[bucket])
    block = UserBlock.from_arrow(read_file(storage, f"{job.histories}/{_name(bucket)}"))
    if not np.array_equal(block.users, names[c.INDEX].to_numpy()):
        raise RecsysError(
            f"the users of bucket {bucket} are not those of table 'user_ids'",
            storage.url(f"{job.histories}/{_name(bucket)}"),
            "Run featurize with --force: tables of an earlier version have no file a bucket.",
        )
    total, ids = {"rows": 0, "content": 0}, names[c.USER_ID].combine_chunks()
    if job.arm is not None:
        mine = np.flatnonzero(job.arm.holds(ids.to_pylist()))
        block, ids = block.take(mine), ids.take(pa.array(mine))

    def tables() -> Iterator[pa.Table]:
        for table, content in _tables(job, block, Names.of(ids)):
            total["rows"] += table.num_rows
            total["content"] += content
            yield table

    schema = schema_of(dict(job.versions))
    write_file(storage, job.file(bucket), tables(), schema, **writing(schema))
    storage.write_json(job.told(bucket), total)  # from here on the bucket is done


def _tables(job: ScoreJob, block: UserBlock, users: Names) -> Iterator[tuple[pa.Table, int]]:
    """Row groups of the lists of a bucket, and the content of each."""
    items = _item_names(job.root, job.item_ids, job.items)
    size = USERS_AT_ONCE if job.how.by == "ranker" else _USERS_OF_PRODUCTS
    at_once = max(1, _ROWS_OF_A_GROUP // (job.n * size)) * size
    for first in range(0, len(block), at_once):
        last = min(first + at_once, len(block))
        starts = range(first, last, size)
        named = items.texts if job.explain else None
        lists = [block_lists(block.slice(start, min(start + size, last)), job.how, job.n, named) for start in starts]
        yield to_arrow(lists, users.part(first, last), items, dict(job.versions))


@lru_cache(maxsize=1)
def _item_names(root: str, folder: str, size: int) -> Names:
    """Ids by item index; loaded once a worker process."""
    storage = Storage(root)
    parts = [read_file(storage, f"{folder}/{name}", [c.INDEX, c.ITEM_ID]) for name, _ in storage.files(folder)]
    table = pa.concat_tables(parts)
    place = np.full(size, -1, np.int64)
    place[table[c.INDEX].to_numpy()] = np.arange(len(table))
    ids = table[c.ITEM_ID].combine_chunks().take(pa.array(place, mask=place < 0))
    return Names.of(ids.fill_null(""))  # of no item


class _Watch:
    """Tells how many buckets are done while Spark works on them."""

    def __init__(self, storage: Storage, job: ScoreJob, buckets: list[int], before: int) -> None:
        self.storage, self.job, self.buckets, self.before = storage, job, buckets, before
        self.stop, self.started = Event(), time.monotonic()
        self.thread = Thread(target=self._look, name="score: progress", daemon=True)

    def __enter__(self) -> _Watch:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.stop.wait(_LOOK):
            there = set(self.storage.names(self.job.lists, "file"))
            done = sum(self.job.done(there, bucket) for bucket in self.buckets)
            seconds = time.monotonic() - self.started
            if done > self.before:
                left = seconds / (done - self.before) * (len(self.buckets) - done)
                say(f"score: {done} of {len(self.buckets)} buckets · {left:.0f} s left")


STAGE = Stage(
    name="score",
    does="top-N lists for every user",
    run=score,
    sections=("split", "features", "candidates", "cold", "rules", "diversity", "score", "experiment"),
    inputs=(
        "histories",
        "item_stats",
        "item_windows",
        "item_features",
        "user_features",
        "user_ids",
        "item_ids",
        "feature_spec",
        "retrieval_model",
        *SOURCE_TABLES,
        "ranker",
        "item_rules",
    ),
    outputs=("top_n",),
    points=False,
    also=lambda settings: ("gate",) if settings.gate.enabled else (),
)
