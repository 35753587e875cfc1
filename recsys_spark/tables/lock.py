"""One writer a root: a lock file that names its owner, is renewed while the owner lives, and expires.

Clocks of two machines may differ by hours, so that no time in the file alone takes a lock away. An owner on this host
is asked after: where its process is gone, the lock is free at once. (Containers may share a host's name and not see
each other's processes: such a one is as on another host.) Any other lock is free when both of two things are so: by
this machine's clock it was not renewed for ``EXPIRES_AFTER`` seconds (or was renewed in the future, which says that a
clock is wrong), and it is not renewed while this process looks at it for some of the owner's own intervals, measured by
a clock that nobody sets. A clock that is ahead costs that wait and no more; one that is behind keeps a dead owner's
lock for longer.

An owner that was stopped and comes back after its lock was taken over is harmless: each writer has a fencing token
(``fence``), and the pointers that readers follow refuse a lower one than the newest.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.tables.fence import GUARD, next_token
from recsys_spark.tables.storage import Storage

LOCK = "_locks/writer.json"
RENEW_EVERY = 20.0  # seconds
EXPIRES_AFTER = 600.0  # seconds without a renewal
CLAIM_EXPIRES_AFTER = 60.0  # seconds; taking a stale lock away is a matter of milliseconds
_AHEAD = 60.0  # seconds that a good clock may be ahead of ours
_LOOKS = 2.5  # of the owner's intervals without a renewal


@dataclass
class Lease:
    """A held lock.

    Parameters
    ----------
    storage : Storage
    owner : dict
        What the lock file says, but for the renewals.
    token : int
        Fencing token of this writer.
    lost : str
        Who has it now, where it was taken over.
    """

    storage: Storage
    owner: dict[str, Any]
    token: int = 0
    lost: str = ""

    def content(self, renewals: int) -> bytes:
        """The lock file's content after so many renewals."""
        return json.dumps({**self.owner, "renewals": renewals, "renewed": time.time()}).encode()

    def check(self) -> None:
        """See that the lock is still this process's own.

        Raises
        ------
        RecsysError
            It had expired, and another process has it.
        """
        if self.lost:
            raise RecsysError(
                f"this process's lock had expired and was taken over ({self.lost})",
                self.storage.url(LOCK),
                "It was stopped for too long. What it wrote is not shown to readers; run it again.",
            )

    def renew(self, renewals: int) -> None:
        """Say once more that the owner lives."""
        with self.storage.exclusive(GUARD):
            self.look()
            if not self.lost:
                self.storage.write_bytes(LOCK, self.content(renewals))

    def look(self) -> None:
        """Look at the file whether the lock is still this process's own; ``lost`` says so from then on."""
        found = _content(self.storage, LOCK)
        if found is None or _values(found).get("nonce") != self.owner["nonce"]:
            self.lost = "it is gone" if found is None else "by " + told(_holder(found))


@contextmanager
def writer_lock(storage: Storage, what: str = "the tables are", run_id: str = "") -> Iterator[Lease]:
    """Hold the root's lock while the block runs; ``what`` it guards is for the message, and so is ``run_id``.

    Raises
    ------
    RecsysError
        Somebody else holds it; the message says who, since when, and until when unless it is renewed.
    """
    now, pid = time.time(), os.getpid()
    place = {"host": socket.gethostname(), "processes": _processes()}
    me = {**place, "pid": pid, "started": _started(pid), "user": _user(), "run_id": run_id}
    times = {"since": now, "renew_every": RENEW_EVERY, "expires_after": EXPIRES_AFTER}
    lease = Lease(storage, {**me, **times, "nonce": uuid4().hex})
    while not storage.create_bytes(LOCK, lease.content(0)):
        found = _content(storage, LOCK)
        if found is None:
            continue  # given back just now
        if not _is_stale(storage, found):
            raise RecsysError(
                f"{what} being written by {told(_holder(found))}",
                storage.url(LOCK),
                "Wait for it, or delete this file if that process is gone.",
            )
        _take_away(storage, LOCK, found)
    stop = Event()
    renewal = Thread(target=_renew, args=(lease, stop), name="writer lock: renewal", daemon=True)
    try:
        lease.token = next_token(storage)
        renewal.start()
        yield lease
    finally:
        stop.set()
        if renewal.is_alive():
            renewal.join()
        with storage.exclusive(GUARD):
            found = _content(storage, LOCK)
            if found is not None and _values(found).get("nonce") == lease.owner["nonce"]:
                storage.delete_file(LOCK)  # else it had expired, and is somebody else's now


def _renew(lease: Lease, stop: Event) -> None:
    renewals = 0
    while not lease.lost and not stop.wait(lease.owner["renew_every"]):
        renewals += 1
        try:
            lease.renew(renewals)
        except OSError as error:  # a full disk or a network that is away for a moment
            say(f"the lock could not be renewed ({error}); tried again in {lease.owner['renew_every']:.0f} s")


def told(holder: dict[str, Any]) -> str:
    """Who holds a lock, since when, and until when."""
    who = [f"{name} {holder[key]}" for name, key in (("user", "user"), ("run", "run_id")) if holder[key]]
    until = _time(holder["renewed"] + holder["expires_after"])
    return (
        f"process {holder['pid']} on {holder['host']} since {_time(holder['since'])}"
        f"{' (' + ', '.join(who) + ')' if who else ''}; its claim ends at {until} unless it is renewed"
    )


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _content(storage: Storage, path: str) -> bytes | None:
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        return None


def _values(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _holder(content: bytes) -> dict[str, Any]:
    """Owner that a lock names; one that names nobody is as old as can be."""
    values = _values(content)
    try:
        since = float(values["since"])
        return {
            "host": values["host"],
            "processes": values.get("processes"),
            "pid": int(values["pid"]),
            "started": values.get("started"),
            "user": str(values.get("user", "")),
            "run_id": str(values.get("run_id", "")),
            "since": since,
            "renewed": float(values.get("renewed", since)),
            "renew_every": min(float(values.get("renew_every", RENEW_EVERY)), EXPIRES_AFTER),
            "expires_after": float(values.get("expires_after", EXPIRES_AFTER)),
        }
    except (ValueError, TypeError, KeyError):
        return {
            "host": None, "processes": None, "pid": 0, "started": None, "user": "", "run_id": "",
            "since": 0.0, "renewed": 0.0, "renew_every": 0.0, "expires_after": 0.0,
        }  # fmt: skip


def _take_away(storage: Storage, path: str, stale: bytes) -> None:
    """Delete a stale lock, but never the fresh one of somebody who found the same stale lock a moment before.

    Whoever makes the file that is named after the stale content may delete it, if it is still there.
    """
    claim = f"{path}.{hashlib.sha256(stale).hexdigest()[:16]}"
    if not storage.create_bytes(claim, b""):
        time.sleep(0.05)
        if time.time() - _made(storage, claim) > CLAIM_EXPIRES_AFTER:
            storage.delete_file(claim)
        return
    try:
        with storage.exclusive(GUARD):
            if _content(storage, path) == stale:
                storage.delete_file(path)
    finally:
        storage.delete_file(claim)


def _made(storage: Storage, path: str) -> float:
    changed = storage.fs.get_file_info(storage.path(path)).mtime
    return time.time() if changed is None else float(changed.timestamp())


def _is_stale(storage: Storage, content: bytes) -> bool:
    """Tell whether a lock may be taken over; see the head of this file."""
    holder = _holder(content)
    here = holder["host"] == socket.gethostname() and holder["processes"] in (None, _processes())
    if here and _is_gone(holder):
        return True
    if -_AHEAD <= time.time() - holder["renewed"] <= holder["expires_after"]:
        return False
    until = time.monotonic() + _LOOKS * holder["renew_every"]
    while time.monotonic() < until:
        time.sleep(min(0.2, holder["renew_every"]))
        if _content(storage, LOCK) != content:
            return False
    return True


def _is_gone(holder: dict[str, Any]) -> bool:
    """Tell whether a process of this host has ended; its number may be another process's by now."""
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return holder["started"] is not None and holder["started"] != _started(holder["pid"])


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's own words; None where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _processes() -> str | None:
    """Names the set of processes that this one can see: a container has its own, whatever its host is called."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user that has no name
        return str(os.getuid())
