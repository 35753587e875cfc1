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
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(lock, "RENEW_EVERY", 0.05)
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


def test_a_process_of_another_container_cannot_be_asked_for(storage: Storage) -> None:
    """Two containers on the network of one host share its name: a number unknown here may be alive there."""
    content = hold(storage, pid=dead_process(), processes="pid:[1]")
    with pytest.raises(RecsysError, match="being written by process"), writer_lock(storage):
        pytest.fail("two writers")
    assert storage.read_bytes(FILE) == content
    hold(storage, pid=dead_process(), processes=os.readlink("/proc/self/ns/pid"))
    with writer_lock(storage):
        assert storage.read_json(FILE)["processes"] == os.readlink("/proc/self/ns/pid")


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

    def together(storage: Storage, content: bytes) -> bool:
        stale = judge(storage, content)
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


def test_who_holds_it_since_when_and_until_when_is_told(storage: Storage) -> None:
    since = 1_700_000_000.0
    hold(storage, host="elsewhere", user="ada", run_id="r7", since=since, renewed=time.time(), expires_after=3600)
    with pytest.raises(RecsysError) as error, writer_lock(storage):
        pytest.fail("two writers")
    text = str(error.value)
    assert "on elsewhere since 2023-11-14 22:13:20 UTC (user ada, run r7)" in text
    until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(time.time() + 3600))
    assert f"its claim ends at {until}" in text


def test_it_is_renewed_while_the_block_runs(storage: Storage) -> None:
    with writer_lock(storage, run_id="r1") as lease:
        first = storage.read_json(FILE)
        time.sleep(0.4)
        later = storage.read_json(FILE)
        lease.check()
    assert later["renewals"] >= 2 > first["renewals"]
    assert later["renewed"] > first["renewed"]
    assert {**later, "renewals": 0, "renewed": 0} == {**first, "renewals": 0, "renewed": 0}
    assert later["run_id"] == "r1"


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_two_hours_off_takes_no_live_lock(storage: Storage, hours: int) -> None:
    """The owner is on another machine, whose clock says something else; it is renewed all the time."""
    owner = {"host": "elsewhere", "pid": 1, "renew_every": 0.1, "expires_after": 600}
    stop = threading.Event()

    def renew() -> None:
        count = 0
        while not stop.wait(0.05):
            count += 1
            theirs = time.time() + 3600 * hours
            hold(storage, **owner, since=theirs, renewed=theirs, renewals=count)

    hold(storage, **owner, since=time.time() + 3600 * hours, renewed=time.time() + 3600 * hours, renewals=0)
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(RecsysError, match="on elsewhere"), writer_lock(storage):
            pytest.fail("two writers")
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_dead_lock_of_a_clock_two_hours_off_is_taken_over_after_a_look(storage: Storage, hours: int) -> None:
    theirs = time.time() + 3600 * hours
    hold(storage, host="elsewhere", pid=1, since=theirs, renewed=theirs, renew_every=0.1, expires_after=600)
    started = time.monotonic()
    with writer_lock(storage):
        assert storage.read_json(FILE)["pid"] == os.getpid()
    assert time.monotonic() - started > 0.2


def test_a_process_number_that_is_another_process_now(storage: Storage) -> None:
    hold(storage, pid=os.getpid(), started="1", renewed=time.time(), expires_after=600)
    with writer_lock(storage):
        assert storage.read_json(FILE)["started"] != "1"


def test_an_owner_that_was_taken_over_finds_out(storage: Storage) -> None:
    with writer_lock(storage) as lease:
        hold(storage, host="elsewhere", user="bob", nonce="other")
        time.sleep(0.3)
        with pytest.raises(RecsysError, match=r"taken over \(by process .* on elsewhere"):
            lease.check()
    assert storage.read_json(FILE)["nonce"] == "other"


def test_each_writer_has_a_higher_token(storage: Storage) -> None:
    tokens = []
    for _ in range(40):
        with writer_lock(storage) as lease:
            tokens.append(lease.token)
    assert tokens == list(range(1, 41))
    assert len(storage.names("_locks/tokens")) <= 17
