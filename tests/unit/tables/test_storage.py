from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


def test_roots_as_path_and_as_uri_are_the_same_place(tmp_path: Path) -> None:
    Storage(str(tmp_path)).write_bytes("a/b", b"x")
    assert Storage(tmp_path.as_uri() + "/").read_bytes("a/b") == b"x"
    assert Storage("file:" + str(tmp_path)).read_bytes("a/b") == b"x"


def test_a_relative_root_is_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Storage("here").write_bytes("a", b"x")
    assert (tmp_path / "here" / "a").read_bytes() == b"x"


def test_a_root_that_no_file_system_knows() -> None:
    with pytest.raises(RecsysError, match="setting 'root'"):
        Storage("nowhere://bucket/x")


def test_a_reader_never_sees_a_torn_file(storage: Storage) -> None:
    contents = [bytes([n]) * (200_000 + n) for n in range(8)]
    storage.write_bytes("x/pointer", contents[0])
    stop = threading.Event()
    torn: list[int] = []
    seen: set[int] = set()

    def read() -> None:
        while not stop.is_set():
            content = storage.read_bytes("x/pointer")
            seen.add(content[0])
            if content != contents[content[0]]:
                torn.append(len(content))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(150):
        storage.write_bytes("x/pointer", contents[turn % len(contents)])
    stop.set()
    reader.join()
    assert not torn
    assert len(seen) > 1
    assert os.listdir(storage.path("x")) == ["pointer"]


def test_a_failed_write_leaves_the_old_content_and_no_rest(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes("x", b"new")
    assert storage.read_bytes("x") == b"old"
    assert os.listdir(storage.path()) == ["x"]


def test_only_one_of_two_threads_makes_a_file(storage: Storage) -> None:
    for turn in range(30):
        start = threading.Barrier(2)
        made: list[bytes] = []

        def make(content: bytes, name: str = f"lock-{turn}", start: threading.Barrier = start,
                 made: list[bytes] = made) -> None:  # fmt: skip
            start.wait()
            if storage.create_bytes(name, content):
                made.append(content)

        threads = [threading.Thread(target=make, args=(content,)) for content in (b"one", b"two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [storage.read_bytes(f"lock-{turn}")] == made
    assert len(storage.names("")) == 30


def test_listing(storage: Storage) -> None:
    for name in ("t/run=1/part-1.parquet", "t/run=1/a=x/part-0.parquet", "t/run=1/_SUCCESS",
                 "t/run=1/_temporary/part-9", "t/run=1/.part-1.parquet.crc", "t/_current.json"):  # fmt: skip
        storage.write_bytes(name, b"12345")
    assert storage.files("t/run=1") == [("a=x/part-0.parquet", 5), ("part-1.parquet", 5)]
    assert storage.names("t") == ["_current.json", "run=1"]
    assert storage.names("t", "folder") == ["run=1"]
    assert storage.names("t", "file") == ["_current.json"]
    assert storage.files("absent") == storage.names("absent") == []


def test_deleting_what_is_not_there_is_fine(storage: Storage) -> None:
    storage.delete_file("no")
    storage.delete_folder("no")
    storage.write_bytes("a/b/c", b"")
    storage.delete_folder("a")
    assert not storage.exists("a")


@pytest.mark.parametrize("content", [b"", b'{"run_id": "x', b"\xff\x00"])
def test_torn_json_is_told(storage: Storage, content: bytes) -> None:
    storage.write_bytes("t/_current.json", content)
    with pytest.raises(RecsysError, match=r"_current\.json: not readable as JSON"):
        storage.read_json("t/_current.json")


def test_json_there_and_back(storage: Storage) -> None:
    value = {"ü": [1, None, "🙂"], "a": {"b": 1.5}}
    storage.write_json("x.json", value)
    assert storage.read_json("x.json") == value


def test_a_file_that_another_process_deletes_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs that find the same stale lock, or the same old token, one is faster."""
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(storage, "exists", lambda _: True)
    storage.delete_file("gone")
    (tmp_path / "there").touch()
    storage.delete_file("there")
    assert not (tmp_path / "there").exists()


def test_a_file_that_could_not_be_made_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try to begin a night on a full disk would leave one."""
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        write(self, content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        Storage(str(tmp_path)).create_bytes("_locks/writer.json", b"{}")
    assert list((tmp_path / "_locks").iterdir()) == []
