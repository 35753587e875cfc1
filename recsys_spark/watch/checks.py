"""What is compared with what, and the verdict in words: rows of the table ``checks``. No Spark, no files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import median

from recsys_spark import columns as c
from recsys_spark.config import Watch
from recsys_spark.watch import drift
from recsys_spark.watch.profile import (
    BIN,
    BIN_ROWS,
    CATEGORY,
    DISTINCT,
    EVENTS,
    LISTS,
    NEWEST,
    NULL,
    OTHER,
    ROWS,
)

OK, ALARM, HOLD = "ok", "alarm", "hold"
_SURE = 4.0  # standard deviations of a count that are no chance
_WEEK = 7  # days
_RARE = 0.01  # share below which categories are put together
Folded = Mapping[tuple[str, str, str, str], dict[str, float]]
FileCounts = Mapping[str, tuple[int, int]]  # by file of the log: rows judged, and of these in quarantine


@dataclass(frozen=True)
class Check:
    """One comparison.

    Parameters
    ----------
    name : str
        As in the settings ``watch``.
    source, column : str
        Table, and column where there is one.
    value, limit : float
        What was found, and how far it may go.
    failed : bool
    says : str
        One line for a person.
    """

    name: str
    source: str
    column: str
    value: float
    limit: float
    failed: bool
    says: str

    def level(self, watch: Watch) -> str:
        """``ok``, or what the settings make of its failure."""
        return OK if not self.failed else HOLD if self.name in watch.hold else ALARM


def event_checks(folded: Folded, days: list[str], end: int, watch: Watch) -> Iterator[Check]:
    """Events of the last of some days against the days before.

    Parameters
    ----------
    folded : mapping
        From ``profile.fold``.
    days : list of str
        The oldest first.
    end : int
        End of the last day, seconds since 1970.
    watch : Watch
    """
    tonight = days[-1]
    earlier = [day for day in days[:-1] if _total(folded, EVENTS, day, "", ROWS)]
    yield _freshness(folded, days, end, watch)
    for column, statistic in (("", ROWS), (c.USER_ID, DISTINCT)):
        now = _total(folded, EVENTS, tonight, column, statistic)
        counts = [_total(folded, EVENTS, day, column, statistic) for day in earlier]
        week_ago = _total(folded, EVENTS, days[-1 - _WEEK], column, statistic) if len(days) > _WEEK else 0.0
        yield from _volume(now, counts, column, watch, week_ago=week_ago)
    if not earlier or not _total(folded, EVENTS, tonight, "", ROWS):
        return
    sizes = [sum(_total(folded, EVENTS, day, c.USER_ID, DISTINCT) for day in which) for which in (earlier, [tonight])]
    columns = {(key[2], key[3]) for key in folded if key[0] == EVENTS and key[3] in (CATEGORY, BIN)}
    for column, statistic in sorted(columns):
        if column in (c.USER_ID, c.ITEM_ID):
            continue  # how much each of them does goes with the volume; see also bots
        before = _summed([folded.get((EVENTS, day, column, statistic), {}) for day in earlier])
        now_here = folded.get((EVENTS, tonight, column, statistic), {})
        yield from _compare(EVENTS, column, statistic, before, now_here, (sizes[0], sizes[1]), watch)
    yield _bots(folded, earlier, tonight, watch)


def table_checks(source: str, now: Folded, before: list[Folded], watch: Watch) -> Iterator[Check]:
    """A whole table against the nights before, whose profiles were stored: ``before`` has the newest last.

    A table that has lost all its rows has no profile tonight, and is the worst case of all.
    """
    mine = {key[2:]: counts for key, counts in now.items() if key[0] == source}
    theirs = [{key[2:]: counts for key, counts in one.items() if key[0] == source} for one in before]
    theirs = [one for one in theirs if one]
    if not theirs:
        return
    rows = sum(mine.get(("", ROWS), {}).values())
    rows_before = [sum(one.get(("", ROWS), {}).values()) for one in theirs]
    if source != LISTS:
        yield from _volume(rows, rows_before, "", watch, source)
    for (column, statistic), counts in sorted(mine.items()):
        earlier = _summed([one.get((column, statistic), {}) for one in theirs])
        if statistic in (CATEGORY, BIN) and earlier and column != c.SCORE:
            yield from _compare(source, column, statistic, earlier, counts, (rows_before[-1], rows), watch)


def refused_check(now: FileCounts, before: FileCounts | None, watch: Watch) -> Check:
    """Share of the night's new rows in quarantine, against the share until the night before."""
    judged, refused, what = _new_rows(now, before or {})
    earlier, usual, told = judged, 0.0, "there is no night before"
    if before and _sum(before)[0]:
        earlier, bad = _sum(before)
        usual = bad / earlier
        told = f"{usual:.1%} were before"
    share = refused / judged if judged else 0.0
    limit = usual + watch.refused + drift.share_chance(usual, earlier, judged)
    says = f"{share:.1%} of {judged:,} {what} are in quarantine; {told}"
    return Check("refused", "ledger", "", share, limit, share > limit, says)


def _new_rows(now: FileCounts, before: FileCounts) -> tuple[int, int, str]:
    """Rows judged and refused since the night before, and what they are called.

    A log whose oldest files are taken away is compared by its new files; one that did not grow, or was written anew,
    has no rows of which we know that they are new: it is taken as a whole.
    """
    (all_judged, all_refused), (judged, refused) = _sum(now), _sum(before)
    if before.keys() <= now.keys() and all_judged > judged:
        return all_judged - judged, max(all_refused - refused, 0), "new rows"
    new = _sum({name: rows for name, rows in now.items() if name not in before})
    return (*new, "new rows") if new[0] else (all_judged, all_refused, "rows")


def _sum(counts: FileCounts) -> tuple[int, int]:
    return sum(judged for judged, _ in counts.values()), sum(refused for _, refused in counts.values())


def list_checks(
    users: tuple[int, int], items: tuple[int, int], change: tuple[float, int], watch: Watch
) -> Iterator[Check]:
    """Tonight's lists against those that readers see.

    Parameters
    ----------
    users, items : (int, int)
        With a list, or on one: before, and tonight.
    change : (float, int)
        Mean share of a user's list that was not on it before, and the users compared.
    watch : Watch
    """
    for name, what, limit, (old, new) in (
        ("coverage", "users have a list", watch.coverage, users),
        ("catalogue", "items are on a list", watch.catalogue, items),
    ):
        share = new / old if old else 1.0
        says = f"{new:,} {what}, {share:.0%} of the {old:,} before"
        yield Check(name, LISTS, "", share, limit, share < limit, says)
    share, count = change
    says = f"{share:.0%} of a user's list is new since the night before, over {count:,} users"
    yield Check("list_change", LISTS, "", share, watch.max_list_change, share > watch.max_list_change, says)


def _freshness(folded: Folded, days: list[str], end: int, watch: Watch) -> Check:
    newest = max((_total(folded, EVENTS, day, c.EVENT_TIME, NEWEST) for day in days), default=0.0)
    hours = (end - newest) / 3600 if newest else 24.0 * len(days)
    says = f"the newest event is {hours:.1f} hours older than the end of {days[-1]}"
    if not newest:
        says = f"no event in the last {len(days)} days"
    return Check("freshness", EVENTS, c.EVENT_TIME, hours, watch.max_age_hours, hours > watch.max_age_hours, says)


def _volume(
    now: float, before: list[float], column: str, watch: Watch, source: str = EVENTS, week_ago: float = 0.0
) -> Iterator[Check]:
    """More or fewer than the settings allow, and than the chance of a count does.

    A day that is as its weekday was a week ago is as it should be: many a shop has a quiet Sunday.
    """
    usual = median(before) if before else 0.0
    if not usual:
        return
    told = f"the usual {usual:,.0f} (median of {len(before)})"
    failed = _is_far(now, usual, watch)
    if failed and week_ago and not _is_far(now, week_ago, watch):
        usual, failed, told = (
            week_ago,
            False,
            f"the {week_ago:,.0f} a week ago; the median of {len(before)} is {usual:,.0f}",
        )
    share = now / usual
    limit = watch.volume_low if share < 1 else watch.volume_high
    what = "users" if column else "rows"
    yield Check("volume", source, column, share, limit, failed, f"{now:,.0f} {what}, {share:.0%} of {told}")


def _is_far(now: float, usual: float, watch: Watch) -> bool:
    sure = abs(now - usual) > _SURE * sqrt(usual)
    return sure and not watch.volume_low <= now / usual <= watch.volume_high


def _compare(
    source: str,
    column: str,
    statistic: str,
    before: dict[str, float],
    now: dict[str, float],
    sizes: tuple[float, float],
    watch: Watch,
) -> Iterator[Check]:
    """Nulls, new categories, and the distribution of the others. ``sizes`` are the independent observations."""
    shares = [counts.get(NULL, 0.0) / max(sum(counts.values()), 1.0) for counts in (before, now)]
    if max(shares):
        rise = shares[1] - shares[0]
        says = f"{shares[1]:.1%} of the rows have no value; {shares[0]:.1%} had none before"
        limit = watch.nulls + drift.share_chance(shares[0], *sizes)
        yield Check("nulls", source, column, rise, limit, rise > limit, says)
    before, now = ({name: n for name, n in counts.items() if name != NULL} for counts in (before, now))
    if not before or not now:
        return
    if statistic == CATEGORY:
        yield from _category(source, column, before, now, sizes, watch)
    else:
        yield from _number(source, column, before, now, sizes, watch)


def _category(
    source: str, column: str, before: dict[str, float], now: dict[str, float], sizes: tuple[float, float], watch: Watch
) -> Iterator[Check]:
    share, name = drift.new_share(before, _surely_there(before, now))
    told = f", most of all '{name}'" if name else ""
    sure = share * sum(now.values()) > _SURE**2
    says = f"{share:.1%} of the rows have a value that none had before{told}"
    yield Check("new_values", source, column, share, watch.new_values, sure and share > watch.new_values, says)
    one, two = _without_rare(before, now)
    value, bins = drift.psi(one, two)
    yield _drifted("PSI", source, column, value, watch.psi + drift.psi_chance(bins, *sizes))


def _surely_there(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Tonight's categories, those by name that would have had a name before, too; the rare ones may not have had one.

    Of a column with very many categories only the largest are kept by name. One of tonight's that is as rare as the
    rarest of those, three times over, may have been among the others.
    """
    if OTHER not in before:
        return now
    least = min((n for name, n in before.items() if name != OTHER), default=0.0) / sum(before.values())
    limit = 3 * least * sum(now.values())
    named = {name: n for name, n in now.items() if name in before or n > limit}
    return {**named, OTHER: sum(now.values()) - sum(n for name, n in named.items() if name != OTHER)}


def _number(
    source: str, column: str, before: dict[str, float], now: dict[str, float], sizes: tuple[float, float], watch: Watch
) -> Iterator[Check]:
    value, bins = drift.psi(*drift.grouped(before, now))
    middle = tuple(drift.quantile(counts, 0.5) for counts in (before, now))
    told = f"; the median was {middle[0]:.3g} and is {middle[1]:.3g}"
    yield _drifted("PSI", source, column, value, watch.psi + drift.psi_chance(bins, *sizes), told)
    yield _drifted("KS", source, column, drift.ks(before, now), watch.ks + drift.ks_chance(*sizes), told)


def _drifted(what: str, source: str, column: str, value: float, limit: float, told: str = "") -> Check:
    says = f"{what} {value:.3f} against the days before, at most {limit:.3f}{told}"
    return Check("drift", source, column, value, limit, value > limit, says)


def _bots(folded: Folded, earlier: list[str], tonight: str, watch: Watch) -> Check:
    bins = _summed([folded.get((EVENTS, day, c.USER_ID, BIN), {}) for day in earlier])
    most = 2 * drift.upper(max((int(key) for key in bins if key != NULL), default=drift.ZERO))
    rows = folded.get((EVENTS, tonight, c.USER_ID, BIN_ROWS), {})
    users = folded.get((EVENTS, tonight, c.USER_ID, BIN), {})
    above = [key for key in rows if drift.upper(int(key) - 1) >= most]
    share = sum(rows[key] for key in above) / max(sum(rows.values()), 1.0)
    count = sum(users.get(key, 0.0) for key in above)
    says = f"{share:.1%} of the events are by {count:,.0f} users with more than {most:,.0f} each"
    return Check("bots", EVENTS, c.USER_ID, share, watch.bots, share > watch.bots, says)


def _without_rare(before: dict[str, float], now: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Categories that are rare both before and now as one."""
    totals = sum(before.values()), sum(now.values())
    names = {*before, *now}
    often = {
        name
        for name in names
        if max(before.get(name, 0) / totals[0], now.get(name, 0) / totals[1]) >= _RARE and name != OTHER
    }
    one, two = ({name: counts.get(name, 0.0) for name in often} for counts in (before, now))
    if names - often:
        one[OTHER], two[OTHER] = totals[0] - sum(one.values()), totals[1] - sum(two.values())
    return one, two


def _summed(parts: list[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _total(folded: Folded, source: str, day: str, column: str, statistic: str) -> float:
    return sum(folded.get((source, day, column, statistic), {}).values())
