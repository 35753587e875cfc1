"""Splits in time, attributes and their encodings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section


class Split(Section):
    """Which events are known, and which are to be guessed."""

    kind: Literal["time", "leave_last_out", "random", "column"] = Field(
        "time",
        description="time: windows counted back from the end of the run's day. The others put each event into one of "
        "these windows by its place in its user's history, at random, or by a column of the log",
    )
    valid_share: float = Field(0.1, gt=0, lt=1, description="Share of events in the validation part (kind random)")
    test_share: float = Field(0.1, gt=0, lt=1, description="Share of events in the test part (kind random)")
    seed: int = Field(1, description="Of the random split")
    valid_days: int = Field(28, ge=1, description="Days of the validation window, before the test window")
    test_days: int = Field(28, ge=1, description="Days of the test window, the newest")
    ranker_windows: int = Field(
        4,
        ge=1,
        description="Label windows of valid_days for the ranker; the last is the validation window. "
        "1: nothing after train-retrieval can run",
    )

    @model_validator(mode="after")
    def _shares_leave_some(self) -> Split:
        others = (self.ranker_windows - 1) * self.valid_share
        taken = {"random": self.test_share + self.valid_share + others, "column": others}.get(self.kind, 0.0)
        if taken >= 1:
            raise ValueError(
                f"kind {self.kind}: valid_share for each of the ranker_windows (and test_share) sum up to {taken:.2f}; "
                "it must be less than 1, since the rest is for training"
            )
        return self


class Feature(Section):
    """One attribute of a user or an item, and its encoding, fitted on the training's entities only."""

    name: str
    column: str | None = Field(None, description="Column of the input table; the name where it is not given")
    kind: Literal["category", "list", "number", "text"] = Field(
        "category", description="One value, several values, a number, or text that is cut into lower-cased words"
    )
    separator: str = Field(r"\|", description="Regular expression between the values of a list")
    max_length: int = Field(
        8, ge=1, description="Values of a list, or terms of a text (those of greatest weight), that are kept"
    )
    extract: str | None = Field(None, description="Regular expression; its first group is the value")
    min_count: int = Field(
        1, ge=1, description="Training entities that must hold a value or term, so that it has a code of its own"
    )
    hash_buckets: int = Field(
        0,
        ge=0,
        le=2**22,
        description="Codes that values without one of their own share by a stable hash, in place of one code for "
        "all; of a text, all terms share them and there is no vocabulary. 0: no hashing",
    )
    ngrams: int = Field(1, ge=1, le=4, description="Terms of a text are single words, and up to this many in a row")
    max_terms: int = Field(
        10_000, ge=1, description="Terms of a text with a code: those in most entities, ties by the term"
    )
    weighting: Literal["count", "tfidf"] = Field(
        "count",
        description="Weight of a term. count: its count chooses the terms that are kept, and these count alike; tfidf: "
        "count times (ln((1 + texts) / (1 + texts with it)) + 1), and the model pools by it",
    )
    encoding: Literal["buckets", "bands", "log", "standard"] = Field(
        "buckets",
        description="Of a number. buckets: codes of quantile buckets; bands: the same among entities that share "
        "the value of 'within' (cheap for its kind); log: ln(1 + value), from the smallest training value on where "
        "that is below 0; standard: (value - mean) / standard deviation, at most 100 either way. The last two enter "
        "the ranker as they are",
    )
    buckets: int = Field(16, ge=2, description="Quantile buckets of a number (encodings buckets and bands)")
    within: str | None = Field(
        None,
        description="Category feature of the same side among whose values bands are cut; a value with fewer training "
        "numbers than buckets uses the bands of all",
    )
    missing: Literal["bucket", "constant", "mean", "median"] = Field(
        "bucket",
        description="What stands for a missing number. bucket: a code or weight of its own; constant: missing_value; "
        "mean, median: of the training numbers",
    )
    missing_value: float | None = Field(None, description="Stands for a missing number (missing: constant)")
    ranker: bool = Field(True, description="Is it a field of the ranker? If not, it may still serve in group or within")

    @property
    def source(self) -> str:
        """Name of the input column."""
        return self.column or self.name

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Feature:
        if (self.kind == "number" and self.encoding == "bands") != (self.within is not None):
            raise ValueError(f"feature '{self.name}': 'within' is given with encoding bands of a number, and only then")
        if (self.kind == "number" and self.missing == "constant") != (self.missing_value is not None):
            raise ValueError(f"feature '{self.name}': 'missing_value' is given with missing: constant, and only then")
        kinds = {"encoding": ["number"], "missing": ["number"], "weighting": ["text"], "ngrams": ["text"]}
        kinds |= {"max_terms": ["text"], "hash_buckets": ["category", "list", "text"]}
        for key, fitting in kinds.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.kind not in fitting:
                raise ValueError(f"feature '{self.name}': '{key}' is for kind {' or '.join(fitting)}, not {self.kind}")
        return self


class Features(Section):
    """Which attributes the ranker sees, and how the examples are written."""

    user: list[Feature] = Field([])
    item: list[Feature] = Field([])
    group: list[str] = Field(
        [],
        description="Item features of kind category in whose values a user's habits are counted (pair features)",
    )
    recent_days: int = Field(28, ge=1, description="Window of the recent popularity")
    windows: list[Annotated[int, Field(ge=1, le=36_500)]] = Field(
        [],
        description="Days of further windows before a cut, such as [7, 28, 90]: in each, counts and shares of the "
        "user, of the item, of the two together and of the user in each group, and the item's share of repeats",
    )
    moment: list[Literal["weekday", "season", "hour", "last"]] = Field(
        [],
        description="Features of the day that begins at the cut. weekday: which it is, and the share of the user's and "
        "of the pair's days on it; season: sine and cosine of the day of the year; hour: the user's usual hour (UTC), "
        "as sine and cosine; last: hour and weekday of the user's last event",
    )
    history_length: int = Field(5_000, ge=1, description="Newest events of a user that are kept")
    row_group_rows: int = Field(100_000, ge=1, description="Rows that a row group of the examples aims at")
    whole_users: bool = Field(
        False,
        description="Shuffle the retrieval model's examples user by user, not pair by pair: a batch then holds whole "
        "users, whose pairs share their scores (few users, long histories, or the whole catalogue as negatives)",
    )
    min_row_groups: int = Field(
        4,
        ge=1,
        description="Row groups at least; of the retrieval model's examples, which are apart by user buckets, there "
        "are at least four a rank too, if there are so many buckets",
    )
    min_user_events: int = Field(
        0, ge=0, description="Events until a user gets an index, and then keeps it; 0: all users that a table names"
    )
    min_item_events: int = Field(0, ge=0, description="The same for items")

    @model_validator(mode="after")
    def _names_fit_together(self) -> Features:
        for side, features in (("user", self.user), ("item", self.item)):
            names = {feature.name for feature in features}
            groups = [feature.name for feature in features if feature.kind == "category"]
            for feature in features:
                if feature.within is not None and feature.within not in groups:
                    raise ValueError(f"{side}: '{feature.within}' (within of '{feature.name}') is none of {groups}")
                if feature.weighting == "tfidf" and f"{feature.name}_weights" in names:
                    raise ValueError(f"{side}: '{feature.name}_weights' is the name of a column of '{feature.name}'")
        for key in ("windows", "moment"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: {getattr(self, key)} names something twice")
        return self
