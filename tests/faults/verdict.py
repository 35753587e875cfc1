"""What a disturbed night left behind, beside an undisturbed one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness import currents, rows

from faults.reader import TIMES
from recsys_spark.tables import TABLES, TableStore


@dataclass
class Figures:
    """The line that ``make test-faults`` ends with."""

    kills: int = 0
    lost_rows: int = 0
    torn_reads: int = 0
    hash_mismatches: int = 0
    seed: int = 0
    unclear_ends: int = 0  # commands that ended without one clear line or never, processes that outlived them
    scenarios: int = 0  # faults that are no kill, and that held
    failed: list[str] = field(default_factory=list)

    def line(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Rows too few or too many, and tables whose content is another, with their names."""

    lost_rows: int
    other: list[str]


def compare(root: Path, meant: Path, *days: str) -> Difference:
    """Compare the tables that readers of some days see below two roots."""
    lost, other = 0, []
    store = TableStore(str(root))
    for dt in days:
        found, wanted = currents(root, dt), currents(meant, dt)
        other += [f"{name} of {dt} is missing or new" for name in sorted(found.keys() ^ wanted.keys())]
        lost += sum(wanted[name].rows for name in wanted.keys() - found.keys())
        for name in sorted(found.keys() & wanted.keys()):
            if TABLES[name].kind == "rows":
                lost += abs(len(rows(store, name, dt)) - wanted[name].rows)
            if name not in TIMES and found[name].content_hash != wanted[name].content_hash:
                other.append(f"{name} of {dt}: run {found[name].run_id}")
    return Difference(lost, other)
