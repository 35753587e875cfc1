from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.tables import lock
from recsys_spark.tables.lock import EXPIRES_AFTER, writer_lock
from recsys_spark.tables.storage import Storage

FILE = "_locks/writer.json"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def hold(storage: Storage, **owner: object) -> bytes:
    content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), **owner})
    storage.write_bytes(FILE, content.encode())
    return content.encode()


def dead_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_held_while_the_block_runs(storage: Storage) -> None:
    with writer_lock(storage):
        assert storage.read_json(FILE)["pid"] == os.getpid()
        with pytest.raises(RecsysError) as error, writer_lock(storage):
            pytest.fail("two writers")
        assert f"process {os.getpid()} on {socket.gethostname()} since 20" in str(error.value)
        assert FILE in error.value.where
        assert storage.exists(FILE)
    assert not storage.exists(FILE)


def test_given_back_after_an_error(storage: Storage) -> None:
    with pytest.raises(KeyError), writer_lock(storage):
        raise KeyError
    with writer_lock(storage):
        pass


@pytest.mark.parametrize(
    "owner",
    [
        {"pid": "dead"},
        {"since": time.time() - EXPIRES_AFTER - 60},
        {"host": "elsewhere", "since": time.time() - EXPIRES_AFTER - 60},
    ],
)
def test_a_stale_lock_is_taken_over(storage: Storage, owner: dict[str, object]) -> None:
    hold(storage, **{key: dead_process() if value == "dead" else value for key, value in owner.items()})
    with writer_lock(storage):
        assert storage.read_json(FILE)["pid"] == os.getpid()
        assert time.time() - storage.read_json(FILE)["since"] < 60
    assert storage.files("") == []


@pytest.mark.parametrize("owner", [{"host": "elsewhere", "pid": 1}, {"pid": 1}, {"pid": "self"}])
def test_a_live_or_unknown_owner_keeps_it(storage: Storage, owner: dict[str, object]) -> None:
    """A process of another host cannot be asked, so its lock holds until it expires."""
    content = hold(storage, **{k: os.getpid() if v == "self" else v for k, v in owner.items()})
    with pytest.raises(RecsysError, match="being written by process"), writer_lock(storage):
        pytest.fail("two writers")
    assert storage.read_bytes(FILE) == content


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 3}', b'{"since": null}'])
def test_a_lock_that_names_nobody_is_taken_over(storage: Storage, content: bytes) -> None:
    storage.write_bytes(FILE, content)
    with writer_lock(storage):
        assert storage.read_json(FILE)["pid"] == os.getpid()


def test_only_the_own_lock_is_given_back(storage: Storage) -> None:
    """Somebody took the lock over (it had expired): it is his now."""
    with writer_lock(storage):
        theirs = hold(storage, host="elsewhere")
    assert storage.read_bytes(FILE) == theirs


def test_a_lock_that_goes_while_it_is_looked_at(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(storage)
    read = Storage.read_bytes

    def too_late(self: Storage, relative: str) -> bytes:
        monkeypatch.setattr(Storage, "read_bytes", read)
        self.delete_file(relative)
        return read(self, relative)

    monkeypatch.setattr(Storage, "read_bytes", too_late)
    with writer_lock(storage):
        assert storage.read_json(FILE)["pid"] == os.getpid()


def test_one_of_many_takes_a_stale_lock_over(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """All have judged the same lock stale before the first one acts."""
    hold(storage, since=0)
    inside, most = [], []
    everybody = threading.Barrier(4)
    first_look = threading.local()
    judge = lock._is_stale

    def together(holder: dict[str, object]) -> bool:
        stale = judge(holder)
        if not getattr(first_look, "done", False):
            first_look.done = True
            everybody.wait(timeout=10)
        return stale

    monkeypatch.setattr(lock, "_is_stale", together)
    held: list[str] = []

    def work(name: str) -> None:
        try:
            with writer_lock(storage):
                inside.append(name)
                most.append(len(inside))
                time.sleep(0.3)
                inside.remove(name)
        except RecsysError:
            held.append(name)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(held) == 4
