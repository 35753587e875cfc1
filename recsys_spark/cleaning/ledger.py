"""Where every row went: counts by file and rule, and what is refused when they do not add up or too much is bad."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from recsys_spark.cleaning.files import RawFile
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.rules import READ, RULES, WAITING
from recsys_spark.tables import TABLES
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

UNREADABLE = "unreadable_file"
_WRONG_DAY = ("time_range", "too_late", "future")  # what is wrong with these rows is their day
_DAY_SHARE = 0.01  # of the fullest day's rows: on days with fewer a share says nothing
_NOBODYS_FAULT = ("min_support", "deleted_user")  # a rare item and a user who left are no fault of the input
Line = tuple[str, str, str, int]  # source, file, rule, rows


@dataclass
class Ledger:
    """Counts of one source (``interactions``, ``items`` or ``users``).

    Parameters
    ----------
    source : str
    files : list of RawFile
        A file's place is its number in ``rows``.
    rows : Counter of (file number, outcome)
        Rows of each outcome, ``read`` among them.
    days : Counter of (day, outcome)
        The same by the event's day, where rows have one.
    carried : list of Line
        Lines of earlier nights for files that were not read again.
    """

    source: str
    files: list[RawFile]
    rows: Counter[tuple[int, str]] = field(default_factory=Counter)
    days: Counter[tuple[str, str]] = field(default_factory=Counter)
    carried: list[Line] = field(default_factory=list)

    def lines(self) -> list[Line]:
        """Lines of the table, in order; a file without rows has a line too."""
        counted: Counter[tuple[str, str]] = Counter()
        for each in self.files:
            counted[each.name, READ] += 0
            if each.broken:
                counted[each.name, UNREADABLE] += 0
        for (place, rule), rows in self.rows.items():
            counted[self.files[place].name, rule] += rows
        for _, name, rule, rows in self.carried:
            counted[name, rule] += rows
        always = (READ, UNREADABLE)
        return sorted((self.source, name, rule, n) for (name, rule), n in counted.items() if n or rule in always)

    def total(self, *rules: str) -> int:
        """Rows of some outcomes over the files read tonight."""
        return sum(rows for (_, rule), rows in self.rows.items() if rule in rules)

    def check(self, settings: Settings) -> None:
        """Rows in = kept + duplicates + quarantined + waiting, for each file; and not too much of it is bad.

        Raises
        ------
        RecsysError
            A sum is wrong, or a share is above its limit.
        """
        judged: Counter[int] = Counter()
        for (place, rule), rows in self.rows.items():
            judged[place] += rows if rule != READ else 0
        for place, each in enumerate(self.files):
            if judged[place] != self.rows[place, READ]:
                raise RecsysError(
                    f"{self.rows[place, READ]:,} rows were read but {judged[place]:,} are accounted for",
                    each.url,
                    "Was the file changed during the run? Run it again; if not, it is a fault of the code.",
                )
        self.check_shares(settings)

    def check_shares(self, settings: Settings) -> None:
        """Refuse a file or day with too many bad rows, and an input with too many unreadable files."""
        broken = [each for each in self.files if each.broken]
        if broken and len(broken) / len(self.files) > settings.clean.max_unreadable_share:
            raise RecsysError(
                f"{len(broken)} of {len(self.files)} files cannot be read, such as this one ({broken[0].broken})",
                broken[0].url,
                "Bring them again, take them away, or raise clean.max_unreadable_share "
                f"(now {settings.clean.max_unreadable_share}).",
            )
        by_file: dict[str, Counter[str]] = {}
        for (place, rule), rows in self.rows.items():
            by_file.setdefault(self.files[place].url, Counter())[rule] += rows
        by_day: dict[str, Counter[str]] = {}
        for (day, rule), rows in self.days.items():
            if rule not in _WRONG_DAY:
                by_day.setdefault(f"the events of {day}", Counter())[rule] += rows
        least = _DAY_SHARE * max((sum(counts.values()) for counts in by_day.values()), default=0)
        by_day = {day: counts for day, counts in by_day.items() if sum(counts.values()) >= least}
        for where, counts in [*sorted(by_file.items()), *sorted(by_day.items())]:
            _check_share(where, counts, settings.clean.max_quarantine_share)


def to_table(spark: SparkSession, ledgers: list[Ledger]) -> DataFrame:
    """Rows of the table ``ledger``."""
    lines = [line for ledger in ledgers for line in ledger.lines()]
    return small_frame(spark, lines, TABLES["ledger"].schema).coalesce(1)


def most_common(ledger: Ledger) -> str:
    """What to say where no row is left."""
    rules: Counter[str] = Counter()
    for (_, rule), rows in ledger.rows.items():
        if rows and (rule in RULES or rule == WAITING):
            rules[rule] += rows
    if not rules:
        return "The input is empty: check input.interactions.path."
    worst = rules.most_common(1)[0][0]
    return f"Most rows broke '{worst}': {RULES.get(worst, 'the events are later than the day of the run')}."


def _check_share(where: str, counts: Counter[str], limit: float) -> None:
    """Rows that wait for their night, and second copies, are not bad."""
    bad = {rule: rows for rule, rows in counts.items() if rule in RULES and rule not in _NOBODYS_FAULT and rows}
    judged = sum(rows for rule, rows in counts.items() if rule not in (READ, WAITING, *_NOBODYS_FAULT))
    if judged and sum(bad.values()) / judged > limit:
        worst = ", ".join(f"{rule} {rows:,}" for rule, rows in sorted(bad.items(), key=lambda each: -each[1]))
        raise RecsysError(
            f"{sum(bad.values()):,} of {judged:,} rows are bad ({worst})",
            where,
            f"Mend the input, or raise clean.max_quarantine_share (now {limit}).",
        )
