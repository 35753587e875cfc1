"""What is to be generated: sizes, seed, faults; and the bounds that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta

from recsys_spark.errors import RecsysError
from recsys_spark.generator.rates import RATES, ROW_RATES

LOOK_BACK_DAYS = 3
NEAR_SECONDS = 1.0
ACTIVITY_MADS = 2.0  # sessions are of very unequal length: three would be above the bots

# A user has one event in a slot at most. Rows that arrive with another lag lie in another phase of the slot, so that
# two events of a user are never as close as a near duplicate, whichever files they come from.
PHASE_SECONDS = 3
PHASES = 2 * LOOK_BACK_DAYS + 1
SLOT_SECONDS = PHASE_SECONDS * PHASES
SLOTS = 86_400 // SLOT_SECONDS

INITIAL_SHARE = 0.7  # of the users and items: there on the first day
LONGEST_SESSION = 50  # rows
FORMATS = ("parquet", "csv", "json")


@dataclass(frozen=True)
class LogSpec:
    """A log. Equal specs give equal files.

    Parameters
    ----------
    rows : int
        Rows of the log, faults included; files that come twice and unreadable ones are on top.
    days, end_date : int, str
        Number of day folders, and the last of them (YYYY-MM-DD).
    users, items : int
        At the end; 70 % of them are there on the first day, the others join evenly.
    seed : int
    rates : tuple of (str, float)
        Shares of the faults, by the names in RATES; see ``dirt``.
    text : bool
        ``event_time`` and ``value`` are strings; times are ISO text, seconds and milliseconds in one column.
    hot_user_share, hot_item_share : float
        Share of all rows held by one user, by one item. A hot user switches the rule extreme_activity off.
    log_format : str
        parquet, csv or json.
    rows_per_file : int
        At most, in one file.
    fashion : float
        How far an item's popularity rises and falls: times exp(±fashion) at most, each item at its own time. 0: it
        stays as it is.
    """

    rows: int = 100_000
    days: int = 14
    users: int = 2_000
    items: int = 1_000
    seed: int = 1
    end_date: str = "2026-01-31"
    rates: tuple[tuple[str, float], ...] = ()
    text: bool = False
    hot_user_share: float = 0.0
    hot_item_share: float = 0.0
    log_format: str = "parquet"
    rows_per_file: int = 1_000_000
    fashion: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be generated as promised."""
        for name, low, high in (("rows", 100, 10**12), ("days", 1, 3_660), ("seed", 0, 2**32 - 1)):
            self._within(name, getattr(self, name), low, high)
        for name, low, high in (("users", 20, 10**8), ("items", 20, 10**7), ("rows_per_file", 100, 4_000_000)):
            self._within(name, getattr(self, name), low, high)
        for name in ("hot_user_share", "hot_item_share"):
            self._within(name, getattr(self, name), 0, 0.9)
        self._within("fashion", self.fashion, 0, 5)
        self._within("hot_item_share", self.hot_user_share + self.hot_item_share, 0, 0.9)
        if self.log_format not in FORMATS:
            raise RecsysError(f"format '{self.log_format}' is unknown", "--format", f"Known: {', '.join(FORMATS)}.")
        try:
            end = date.fromisoformat(self.end_date)
            in_time = end - timedelta(days=self.days) >= date(1985, 1, 1)
            if end.isoformat() != self.end_date:
                raise ValueError("20260131 is a day too, but no folder's name")
        except (ValueError, OverflowError) as error:
            raise RecsysError(f"'{self.end_date}' is no day", "--end-date", "Write it as YYYY-MM-DD.") from error
        if not in_time:
            raise RecsysError("the log would begin before 1985", "--end-date", "Give a later day or fewer days.")
        self._check_rates()
        self._check_rows()

    def _check_rows(self) -> None:
        if self.rows < 20 * self.days:
            raise RecsysError(f"{self.rows:,} rows are too few for {self.days:,} days", "--rows", "Give 20 a day.")
        if 1.25 * self.rows * self.hot_user_share / self.days / SLOTS > INITIAL_SHARE * self.items:
            raise RecsysError("the hot user has too many rows for the items", "--items", "Give more items or days.")
        if self.ordinary_most > SLOTS - LONGEST_SESSION:
            raise RecsysError(
                f"about {self.mean_rows:,.0f} rows of a user a day are too many for a person",
                "--rows",
                "Give more users or days.",
            )

    def _within(self, name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            option = f"--{name.replace('_', '-')}"
            raise RecsysError(f"{value} is out of range", option, f"Give {low:,} to {high:,}.")

    def _check_rates(self) -> None:
        lines, hot = self.log_format != "parquet", self.hot_user_share > 0
        possible = {"": True, "text": self.text, "lines": lines, "parquet": not lines, "no hot user": not hot}
        for name, share in self.rates:
            if name not in RATES:
                raise RecsysError(f"no fault is called {name}", "--rate", f"Known: {', '.join(RATES)}.")
            if not 0 <= share <= 1:
                raise RecsysError(f"{name}={share} is no share", "--rate", "Give 0 to 1.")
            if share and not possible[RATES[name].needs]:
                raise RecsysError(f"{name} is not possible here", "--rate", f"It is for: {RATES[name].about}.")
        if sum(share for name, share in self.rates if name in ROW_RATES) + 2 * self.rate("redelivered") > 0.6:
            raise RecsysError("the shares are above 0.6 together", "--rate", "Good rows are needed as originals.")

    def rate(self, name: str) -> float:
        """Share of a fault, 0 where it is not planted."""
        return dict(self.rates).get(name, 0.0)

    @property
    def start(self) -> date:
        """The first folder's day."""
        return date.fromisoformat(self.end_date) - timedelta(days=self.days - 1)

    def day_name(self, day: int) -> str:
        """The day so many days after the first, YYYY-MM-DD."""
        return (self.start + timedelta(days=day)).isoformat()

    @property
    def earliest(self) -> date:
        """Value of clean.earliest: everything that is planted as late lies after it."""
        return self.start - timedelta(days=400)

    @property
    def mean_rows(self) -> float:
        """Rows of an ordinary user on a day, at most on average."""
        return 1.25 * self.rows * (1 - self.hot_user_share) / self.days / (INITIAL_SHARE * self.users)

    @property
    def ordinary_most(self) -> int:
        """Own rows of an ordinary user in the file of a day, at most."""
        return math.ceil(3 * self.mean_rows) + LONGEST_SESSION + 14

    @property
    def activity_floor(self) -> int:
        """Value of clean.activity_floor, above all that an ordinary user can have on a day.

        Own rows are 1 × ordinary_most at most, planted copies 0.5 ×, rows that come with another day's folder 6 × 1/8;
        each file may come twice: 2 × 2.25.
        """
        return 5 * self.ordinary_most
