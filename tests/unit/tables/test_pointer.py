from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.fence import newest_token, next_token
from recsys_spark.tables.pointer import Pointer, move_pointer, read_pointer
from recsys_spark.tables.store import Stamp

DT = "2024-03-10"


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(str(tmp_path / "root"))


def written(store: TableStore, run_id: str, dt: str = DT) -> Manifest:
    stamp = Stamp(dt, run_id, "train-ranker", f"f-{run_id}", "s", "0", {})
    store.storage.write_bytes(f"{store.folder('ranker', stamp)}/spec.json", run_id.encode())
    return store.seal(None, "ranker", stamp)


def test_an_older_writer_never_replaces_what_a_newer_one_published(store: TableStore) -> None:
    old, new = next_token(store.storage), next_token(store.storage)
    mine, theirs = written(store, "mine"), written(store, "theirs")
    store.point(theirs, new)
    with pytest.raises(RecsysError, match=rf"token {new} began after this one \(token {old}\); readers see run theirs"):
        store.point(mine, old)
    assert store.current("ranker", DT) == theirs
    store.point(mine, new)
    assert store.current("ranker", DT) == mine


def test_a_writer_is_refused_once_a_newer_one_has_begun(store: TableStore) -> None:
    """Its lock was taken over while it slept; the newer one has not published yet."""
    old = next_token(store.storage)
    first = written(store, "first")
    store.point(first, old)
    next_token(store.storage)
    with pytest.raises(RecsysError, match="began after this one"):
        store.point(written(store, "second"), old)
    assert store.current("ranker", DT) == first


def test_of_many_writers_the_newest_one_is_seen(store: TableStore) -> None:
    tokens = [next_token(store.storage) for _ in range(8)]
    runs = {token: written(store, f"r{token}") for token in tokens}
    refused: list[int] = []

    def publish(token: int) -> None:
        try:
            store.point(runs[token], token)
        except RecsysError:
            refused.append(token)

    threads = [threading.Thread(target=publish, args=(token,)) for token in reversed(tokens)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(refused) == tokens[:-1]
    assert store.current("ranker", DT) == runs[tokens[-1]]


def test_tokens_are_never_handed_out_twice(store: TableStore) -> None:
    tokens: list[int] = []
    threads = [threading.Thread(target=lambda: tokens.append(next_token(store.storage))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(tokens)) == 30
    assert newest_token(store.storage) == max(tokens)


def test_a_back_fill_does_not_replace_a_newer_day(store: TableStore) -> None:
    newest = written(store, "night")
    store.point(newest, next_token(store.storage))
    old = written(store, "back-fill", "2024-02-01")
    store.point(old, next_token(store.storage))
    assert store.latest("ranker") == newest
    assert store.need("ranker", "2024-02-01") == old


def test_a_withdrawn_day_is_none(store: TableStore) -> None:
    before = written(store, "before", "2024-03-09")
    store.point(before)
    store.point(written(store, "tonight"))
    move_pointer(store.storage, "ranker", DT, None, None, refused="hash")
    assert store.current("ranker", DT) is None
    assert store.latest("ranker") == before
    store.point(written(store, "again"))
    assert read_pointer(store.storage, "ranker", DT) == Pointer("again", 0, ("hash",), ("tonight",))


def test_a_pointer_of_an_earlier_version_is_read(store: TableStore) -> None:
    manifest = written(store, "r1")
    store.storage.write_json(f"ranker/dt={DT}/_current.json", {"run_id": "r1"})
    assert store.current("ranker", DT) == manifest
    store.point(written(store, "r2"), next_token(store.storage))
    assert store.need("ranker", DT).run_id == "r2"


# Each step of a publication, with the blow that falls right before it.
STEPS = {
    "data": ("write_bytes", "spec.json", "r1"),
    "manifest": ("write_json", "_manifest.json", "r1"),
    "pointer": ("write_json", "_current.json", "r1"),
    "rename": ("os.replace", "_current.json", "r1"),
    "flush": ("_flush_folder", "ranker/dt=2024-03-10", "r2"),
}
PUBLISH = """
import os, signal, sys
from recsys_spark.tables import TableStore, storage
from recsys_spark.tables.lock import writer_lock
from recsys_spark.tables.store import Stamp
root, name, ending = sys.argv[1:]
def deadly(call):
    def before(*words):
        if any(str(word).endswith(ending) for word in words):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*words)
    return before
store = TableStore(root)
with writer_lock(store.storage) as lease:
    stamp = Stamp("2024-03-10", "r2", "train-ranker", "f", "s", "0", {})
    place = {"os.replace": os, "_flush_folder": storage}.get(name, storage.Storage)
    step = name.removeprefix("os.")
    if ending == "ranker/dt=2024-03-10":  # after the rename alone: the folder is flushed at other times too
        real = os.replace
        def replace(source, target):
            real(source, target)
            if target.endswith("_current.json"):
                storage._flush_folder = deadly(storage._flush_folder)
        os.replace = replace
    else:
        setattr(place, step, deadly(getattr(place, step)))
    store.storage.write_bytes(f"{store.folder('ranker', stamp)}/spec.json", b"r2")
    store.point(store.seal(None, "ranker", stamp), lease.token)
"""


@pytest.mark.parametrize("step", STEPS)
def test_killed_between_two_steps_readers_see_one_complete_run(store: TableStore, step: str) -> None:
    call, ending, seen = STEPS[step]
    store.point(written(store, "r1"), next_token(store.storage))
    blow = subprocess.run([sys.executable, "-c", PUBLISH, store.storage.base, call, ending], check=False)

    assert blow.returncode == -signal.SIGKILL
    current = store.need("ranker", DT)
    assert current.run_id == seen
    assert store.damage(current) == []
    # and the next writer finds a free root, whatever was left
    again = subprocess.run([sys.executable, "-c", PUBLISH, store.storage.base, "write_bytes", "no such"], check=False)
    assert again.returncode == 0
    assert store.need("ranker", DT).run_id == "r2"
