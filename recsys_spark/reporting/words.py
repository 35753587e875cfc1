"""Names and sentences for what the tables keep as short codes. No Spark, no files."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

STAGES = (
    "clean",
    "featurize",
    "train-retrieval",
    "sources",
    "candidates",
    "train-ranker",
    "evaluate",
    "rules",
    "gate",
    "score",
    "watch",
    "publish",
    "report",
)

# What a user did, in the past tense, where all events are of one kind. Other kinds are worded as "had it".
_VERBS = {
    "buy": "bought",
    "purchase": "bought",
    "order": "ordered",
    "view": "viewed",
    "click": "clicked",
    "watch": "watched",
    "play": "played",
    "read": "read",
    "rate": "rated",
    "rating": "rated",
    "like": "liked",
}
_NEW = {"taste": "new, fits the taste", "content": "new, is like what the user had"}
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # they hold emoji and some scripts together


def clean(text: object, limit: int = 160) -> str:
    """Text of the data for a person's eyes: no control or direction characters, not endless.

    A label may hold terminal codes or marks that turn the direction of a line; each becomes ``\ufffd``.
    """
    shown = "".join(
        "\ufffd" if unicodedata.category(each) in _INVISIBLE and each not in _JOINERS else each for each in str(text)
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def verb(event_types: list[str]) -> str | None:
    """Past tense of the only event type, or None where there are several or it is none we know."""
    return _VERBS.get(event_types[0].lower()) if len(event_types) == 1 else None


def often(times: int, done: str | None) -> str:
    """``bought 52 times``, or ``had it 52 times`` where nothing better is known."""
    count = {1: "once", 2: "twice"}.get(times, f"{times:,} times")
    return f"{done or 'had it'} {count}"


def ago(days: int) -> str:
    """``3 days ago``."""
    if days <= 0:
        return "on the same day"
    return "1 day ago" if days == 1 else f"{days:,} days ago"


def named_by(code: str) -> str:
    """Id of the item that the ``reason`` of a row names; empty where it names none."""
    kind, _, item = code.partition(":")
    return item if kind in ("taste", "content") else ""


def reason(code: str, done: str | None = None, recent_days: int | None = None, like: str = "") -> str:
    """Sentence for the ``reason`` of a row of top_n; a code that is not known is shown as it is.

    Parameters
    ----------
    code : str
        ``own:<times>:<days since>``, ``taste``, ``taste:<item id>``, ``content:<item id>``, ``segment:<values>`` or
        ``popular:<events in the recent window>``.
    done : str, optional
        From ``verb``.
    recent_days : int, optional
        Length of the recent window.
    like : str, optional
        Label of the item that the reason names; its id by default.
    """
    if item := named_by(code):
        what = "goes with" if code.startswith("taste") else "is like"
        return f"new, {what} {like or clean(item)}"
    if code.startswith("segment:"):
        return f"popular with people like this: {clean(code.removeprefix('segment:').replace('=', ' '))}"
    kind, *parts = code.split(":")
    if not all(part.isdigit() for part in parts):
        return clean(code)
    numbers = [int(part) for part in parts]
    if kind == "own" and len(numbers) == 2:
        last = f", {ago(numbers[1])}" if numbers[0] == 1 else f", last {ago(numbers[1])}"
        return often(numbers[0], done) + last
    if kind in _NEW and not numbers:
        return _NEW[kind]
    if kind in ("pinned", "explore") and not numbers:
        return KINDS[kind]
    if kind == "popular" and len(numbers) == 1:
        window = f"the last {recent_days} days" if recent_days else "the recent window"
        return f"popular: {numbers[0]:,} event{'' if numbers[0] == 1 else 's'} in {window}"
    return clean(code)


def kind(code: str) -> str:
    """Group of a reason, for counting and colour."""
    first = code.split(":")[0]
    return first if first in KINDS else "other"


KINDS = {
    "own": "already known to the user",
    "taste": "new to the user, found by taste",
    "content": "new to the user, like what they had",
    "segment": "popular with people like them",
    "popular": "popular with everybody",
    "pinned": "pinned by the shop",
    "explore": "new in the shop, to be tried",
    "other": "other",
}

METRICS = {
    "ndcg": "NDCG",
    "recall": "Recall",
    "precision": "Precision",
    "hit_rate": "Hit rate",
    "map": "MAP",
    "mrr": "MRR",
    "coverage": "Coverage",
    "intra_list_distance": "Distance within lists",
    "gini": "Gini",
}


def models(
    recent_days: int, half_life_days: float, repeats: bool, over: str = "candidates"
) -> dict[str, tuple[str, str]]:
    """Model code → name and what it does, in the order of the table."""
    candidates = "the retrieval model's items and the user's own" if repeats else "the retrieval model's items"
    if over == "catalogue":
        candidates = "every item that may be shown"
    return {
        "popularity": ("Most popular", "one list for everybody: the items that most users had"),
        "recent_popularity": ("Most popular lately", f"the same, counting the last {recent_days} days only"),
        "repeat": (
            "Own items, most frequent",
            "the items that the user had most often, then popular ones",
        ),
        "repeat_decayed": (
            "Own items, most frequent lately",
            f"the same, where an event counts half after {half_life_days:g} days",
        ),
        "item_knn": ("ItemKNN", "items that go together with those the user had"),
        "retrieval": ("Matrix factorization", "the retrieval model alone, over the whole catalogue"),
        "ranker": ("DeepFM", f"{candidates}, put in order by the ranker"),
        "ranker_plain": ("DeepFM, by score alone", "the same without diversity and long tail"),
    }


BY_SOURCE = "source:"  # of models that are a source of candidates, and of slices with the rows of one source alone
SOURCES = {
    f"{BY_SOURCE}retrieval": (
        "Source retrieval",
        "the retrieval model's new items, as candidates",
    ),
    f"{BY_SOURCE}repeat": ("Source repeat", "the user's own items, as candidates"),
    f"{BY_SOURCE}item_knn": ("Source item_knn", "items that go together with the user's, as candidates"),
    f"{BY_SOURCE}content": ("Source content", "items like the user's by their attributes, as candidates"),
    f"{BY_SOURCE}segment": ("Source segment", "what is popular in the user's segment, as candidates"),
}

SLICES = {
    "all": ("Repeats counted", "whatever the user had in the test weeks, known items included"),
    "new": ("New items only", "only items that the user had never had before the test weeks"),
}


def day(seconds: int) -> str:
    """Date of a time in seconds since 1970-01-01 UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def days_between(seconds: int, dt: str) -> int:
    """Days from an event's date to a day YYYY-MM-DD."""
    start = datetime.fromtimestamp(seconds, UTC).date()
    return (datetime.strptime(dt, "%Y-%m-%d").date() - start).days


def duration(seconds: float) -> str:
    """``1 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def share(value: float) -> str:
    """Per cent with one digit; what is not quite nothing or all does not look like it."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < value < 1 else f"{100 * value:.1f} %"


def file_name(path: str) -> str:
    """Last part of a path or URI."""
    return clean(path.rstrip("/").rsplit("/", 1)[-1])
