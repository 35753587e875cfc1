"""The index of nights: a row a night and what became of it, trends over all, made anew from what lies below the root.

<root>/_reports/index.html              the page
<root>/_reports/nights/dt=….json        figures of each night, kept when its report is deleted

What a night's figures were stands in the manifest of its report; what readers see of it now, in the pointer of its
lists. So the page is right after a back-fill, a roll-back, a held night or deleted runs, whatever came before.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.reporting import words
from recsys_spark.reporting.page import fill
from recsys_spark.reporting.plots import trend_plot
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.pointer import Pointer, read_pointer
from recsys_spark.tables.storage import Storage

FOLDER = "_reports"
INDEX = f"{FOLDER}/index.html"
TEMPLATE = "index.html.j2"
PAGE = "report.html"
DRAWN, ROWS = 90, 60  # newest nights of the trends, and those that are not folded away
_OUTCOMES = "_outcomes"
_READERS = 16  # a night is a handful of small files, which an object store gives slowly, and many at once

T = TypeVar("T")
GOOD, BAD = "good", "bad"


@dataclass(frozen=True)
class Night:
    """A night as the index shows it.

    ``state`` is what readers see of it now; ``tone`` whether somebody should look. ``facts`` are those of
    ``night.night_facts``, empty where there never was a report. ``link`` leads from the index to the page.
    """

    dt: str
    state: str
    tone: str
    says: str
    link: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """A fact that is a number; None where it is not known."""
        value = self.facts.get(name)
        return float(value) if isinstance(value, int | float) else None

    def ndcg(self, model: str) -> tuple[float, float, float] | None:
        """Value and interval by the figures of each user."""
        found = self.facts.get("gate_ndcg", {}).get(model)
        return None if found is None else (found[0], found[1], found[2])

    @property
    def dropped(self) -> float | None:
        """Share of the log's rows that were not kept, by a rule."""
        read, dropped = self.number("read"), self.facts.get("dropped", {})
        return sum(dropped.values()) / read if read else None

    @property
    def alarms(self) -> int:
        """Comparisons and checks that failed."""
        return len(self.facts.get("failed", []))


def write_index(store: TableStore, name: str) -> str:
    """Write the page from what lies below the root; returns its place, relative to the root."""
    nights = read_nights(store)
    store.storage.write_bytes(INDEX, render_index(nights, name).encode())
    return INDEX


def keep_index(store: TableStore, name: str) -> None:
    """Write the page after something has changed; it is never what a night fails of."""
    try:
        write_index(store, name)
    except Exception as error:  # whatever it is: the tables are right without it
        say(f"report: the index of nights was not written ({error})")


def read_nights(store: TableStore) -> list[Night]:
    """All nights, the newest first."""
    storage, kept = store.storage, f"{FOLDER}/nights"
    named = {
        *(name.removeprefix("dt=").removesuffix(".json") for name in storage.names(_OUTCOMES, "file")),
        *(name.removeprefix("dt=").removesuffix(".json") for name in storage.names(kept, "file")),
        *store.days("report"),
    }
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(partial(_night, store), sorted(named, reverse=True)))


def render_index(nights: list[Night], name: str) -> str:
    """The page of some nights."""
    drawn = nights[:DRAWN][::-1]
    return fill(
        TEMPLATE,
        {
            "name": name,
            "nights": nights,
            "plots": _trends(drawn) if drawn else [],
            "drawn_nights": len(drawn),
            "shown": ROWS,
            "clean": words.clean,
            "duration": words.duration,
        },
    )


def _night(store: TableStore, dt: str) -> Night:
    outcome = _json(store.storage, f"{_OUTCOMES}/dt={dt}.json")
    report = _quiet(lambda: store.current("report", dt))
    facts = _facts(store, dt, report)
    pointer = _quiet(lambda: read_pointer(store.storage, "top_n", dt))
    state, tone = _state(store, dt, outcome, facts, pointer)
    says = str(outcome.get("says", ""))
    link = ""
    if report is not None and store.storage.exists(f"{report.folder}/{PAGE}"):
        link = f"../{report.folder}/{PAGE}"
    return Night(dt, state, tone, says, link, facts)


def _facts(store: TableStore, dt: str, report: Manifest | None) -> dict[str, Any]:
    """Figures of the report that readers see, kept beside the index; the kept ones where the report is gone."""
    path = f"{FOLDER}/nights/dt={dt}.json"
    kept = _json(store.storage, path)
    if report is None or "night" not in report.extra:
        return dict(kept.get("facts", {}))
    now = {"report": report.run_id, "facts": report.extra["night"]}
    if kept != now:
        store.storage.write_json(path, now)
    return dict(now["facts"])


def _state(
    store: TableStore, dt: str, outcome: dict[str, Any], facts: dict[str, Any], pointer: Pointer | None
) -> tuple[str, str]:
    """What readers see of a night, in words, and its tone."""
    ended = outcome.get("outcome", "")
    if pointer is None:
        there = store.storage.names(f"top_n/dt={dt}", "folder")
        words_ = {"hold": "held", "failed": "failed"}.get(ended, "not shown" if there or not facts else "deleted")
        return words_, "" if words_ == "deleted" else BAD
    if pointer.run_id is None:
        return "withdrawn", BAD
    if ended == "failed":
        return "failed; earlier lists shown", BAD
    if ended == "hold":
        checks = _quiet(lambda: store.current("checks", dt))
        by_hand = checks is not None and checks.inputs.get("top_n") == pointer.run_id
        return ("shown by hand", "") if by_hand else ("held; earlier lists shown", BAD)
    if facts and facts.get("top_n") != pointer.run_id:
        return ("rolled back" if pointer.refused else "shown, another run"), BAD if pointer.refused else ""
    if facts.get("by_champion"):
        return "shown, champion's model", BAD
    return ("shown, alarm", BAD) if ended == "alarm" else ("shown", GOOD)


def _trends(nights: list[Night]) -> list[tuple[str, str]]:
    """Title and SVG of each figure over the nights, the oldest first; a figure that no night has is left out."""
    days = [night.dt for night in nights]
    spreads = [night.ndcg("tonight") for night in nights]
    sure = any(each is not None for each in spreads)
    low, high = ([None if each is None else each[side] for each in spreads] for side in (1, 2))
    ours = [None if each is None else each[0] for each in spreads] if sure else _column(nights, "ndcg")
    best = [_best_plain(night) for night in nights] if sure else _column(nights, "best_plain")
    memory = [None if (mib := night.number("peak_mib")) is None else mib / 1024 for night in nights]
    minutes = [None if (seconds := night.number("seconds")) is None else seconds / 60 for night in nights]
    shares = [(night.number("catalogue"), night.number("items")) for night in nights]
    listed = [None if not all_ or some is None else 100 * some / all_ for all_, some in shares]
    dropped = [None if night.dropped is None else 100 * night.dropped for night in nights]
    change = [None if (share := night.number("list_change")) is None else 100 * share for night in nights]
    figures: list[tuple[str, dict[str, list[float | None]], bool]] = [
        (
            "NDCG of tonight's model, and of the best plain rule",
            {"tonight's model": ours, "best plain rule": best},
            False,
        ),
        ("Users with a list", {"users": _column(nights, "users")}, True),
        ("Events of the day", {"events": _column(nights, "events_of_day")}, True),
        ("Rows of the log that were dropped, %", {"dropped": dropped}, True),
        ("Items on some list, % of the catalogue", {"items": listed}, True),
        ("New on a user's list since the night before, %", {"new": change}, True),
        (
            "Checks and comparisons that failed",
            {"failed": [float(n.alarms) if n.facts else None for n in nights]},
            True,
        ),
        ("Minutes, all stages together", {"minutes": minutes}, True),
        ("Peak memory, GiB", {"memory": memory}, True),
    ]
    plots = []
    for place, (title, lines, from_zero) in enumerate(figures):
        lines = {name: values for name, values in lines.items() if any(value is not None for value in values)}
        if not lines:
            continue
        newest = "; ".join(f"{name} {_last(values):.4g} in the end" for name, values in lines.items())
        label = f"{title}, {days[0]} to {days[-1]}: {newest}"
        band = (low, high) if place == 0 and sure else None
        plots.append((title, trend_plot(f"trend-{place}", label, days, lines, band, from_zero)))
    return plots


def _best_plain(night: Night) -> float | None:
    """The best of the plain rules by the same users' figures."""
    found = [each[0] for name in ("popularity", "repeat", "item_knn") if (each := night.ndcg(name)) is not None]
    return max(found, default=None)


def _column(nights: list[Night], name: str) -> list[float | None]:
    return [night.number(name) for night in nights]


def _last(values: list[float | None]) -> float:
    return next(value for value in reversed(values) if value is not None)


def _json(storage: Storage, path: str) -> dict[str, Any]:
    """A small file; nothing where it is missing or torn."""
    content = _quiet(lambda: storage.read_json(path)) if storage.exists(path) else None
    return content if isinstance(content, dict) else {}


def _quiet(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RecsysError:
        return None
