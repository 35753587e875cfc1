"""Which run of a day readers see: one small file, replaced in one step, and never by a writer that was overtaken.

<root>/<table>/dt=YYYY-MM-DD/_current.json   {"run_id": …, "token": …, "refused": [contents], "earlier": [run ids]}

``token`` is the fencing token of the writer that moved the pointer last. ``refused`` are contents that a person has
rolled back: a stage that finds one of them again does not show it again by itself. ``earlier`` are the runs that
readers saw before, the newest last: of a day's whole runs some were never shown, since a check held them. ``run_id`` is
null where the day was withdrawn: readers of the newest day see the day before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recsys_spark.errors import RecsysError
from recsys_spark.tables.fence import GUARD, newest_token
from recsys_spark.tables.storage import Storage

POINTER = "_current.json"
_KEPT = 20  # earlier runs


@dataclass(frozen=True)
class Pointer:
    """What the file says."""

    run_id: str | None
    token: int = 0
    refused: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; what says nothing is left out."""
        values: dict[str, Any] = {"run_id": self.run_id, "token": self.token}
        told = {"refused": list(self.refused), "earlier": list(self.earlier)}
        return values | {name: each for name, each in told.items() if each}


def pointer_path(table: str, dt: str) -> str:
    """Place of a day's pointer, relative to the root."""
    return f"{table}/dt={dt}/{POINTER}"


def read_pointer(storage: Storage, table: str, dt: str) -> Pointer | None:
    """Pointer of a day, or None before the first one.

    Raises
    ------
    RecsysError
        The file is torn, or names no run.
    """
    path = pointer_path(table, dt)
    if not storage.exists(path):
        return None
    content = storage.read_json(path)
    named = isinstance(content, dict) and isinstance(content.get("run_id"), str)
    withdrawn = isinstance(content, dict) and "token" in content and content.get("run_id") is None
    if not (named or withdrawn):
        raise RecsysError("the pointer names no run", storage.url(path), "Delete it and run again.")
    refused, earlier = (tuple(content.get(name, ())) for name in ("refused", "earlier"))
    return Pointer(content["run_id"], int(content.get("token", 0)), refused, earlier)


def move_pointer(
    storage: Storage,
    table: str,
    dt: str,
    run_id: str | None,
    token: int | None,
    refused: str = "",
    shown: str = "",
) -> None:
    """Let readers of a day see a run, in one step.

    Parameters
    ----------
    storage : Storage
    table, dt : str
    run_id : str or None
        None withdraws the day.
    token : int or None
        The writer's fencing token; None for a tool that holds no lock: it goes after whoever was last.
    refused : str
        Content hash that stages must not show again.
    shown : str
        Content hash of the run: whoever shows it has thought better of refusing it, if he did.

    Raises
    ------
    RecsysError
        A writer that began later has moved the pointer, or has begun.
    """
    with storage.exclusive(GUARD):
        try:
            before = read_pointer(storage, table, dt)
        except RecsysError:
            before = None  # a damaged pointer is mended by the next good run
        last = before.token if before else 0
        if token is not None and token < max(last, newest_token(storage)):
            shown = f"; readers see run {before.run_id}" if before else ""
            raise RecsysError(
                f"a writer with token {max(last, newest_token(storage))} began after this one (token {token}){shown}",
                storage.url(pointer_path(table, dt)),
                f"Run {run_id} is not shown. Look at 'recsys-spark runs', and run the night again if it is needed.",
            )
        kept = [each for each in (before.refused if before else ()) if each != shown]
        refuses = tuple(dict.fromkeys([*kept, refused] if refused else kept))
        seen = [] if before is None else [*before.earlier, *([before.run_id] if before.run_id else [])]
        earlier = tuple(dict.fromkeys(each for each in reversed(seen) if each != run_id))[:_KEPT][::-1]
        pointer = Pointer(run_id, last if token is None else token, refuses, earlier)
        storage.write_json(pointer_path(table, dt), pointer.to_json())
