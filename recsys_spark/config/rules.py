"""What a shop wants of the lists, whatever the models say: rules, and diversity."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section
from recsys_spark.config.input import Reader


class IdTable(Reader):
    """A table of items: one row an id."""

    id: str = Field(description="Column that holds the item's id, as in the log")


class PinTable(IdTable):
    """A table of pinned items."""

    rank: str = Field(description="Column that holds the place in the list, from 1 on")


class Cap(Section):
    """At most so many items of one category, brand or the like in a list."""

    column: str = Field(description="Column of the items; one without a value is not counted")
    most: int = Field(ge=1, description="Items of one value in a list, at most")


class Boost(Section):
    """Items that are put higher, or lower."""

    where: str = Field(description="SQL expression over the columns of the items: which ones")
    add: float | None = Field(
        None, description="Added to what items are ordered by: the ranker's logit, or the product of the vectors"
    )
    multiply: float | None = Field(
        None, gt=0, description="The odds that the item is taken are multiplied by it: its logarithm is added"
    )

    @model_validator(mode="after")
    def _one_amount(self) -> Boost:
        if (self.add is None) == (self.multiply is None):
            raise ValueError("set exactly one of add and multiply")
        return self


class Pin(Section):
    """An item that has its place in every list."""

    item_id: str
    rank: int = Field(ge=1, description="Its place, from 1 on")


class Explore(Section):
    """Places for items that nobody could judge yet: the last ones of a list that are not pinned."""

    places: int = Field(0, ge=0, description="Places of a list; 0: none")
    days: int = Field(28, ge=1, description="An item is new that has no event, or had its first within so many days")


class Rules(Section):
    """Which items may stand in a list, and where, whatever the models say."""

    hide_seen: Literal["all", "window", "none"] = Field(
        "all",
        description="Which of the items that a user already has are never shown: all; those with an event of the user "
        "within hide_days; or none. With window and none the user's own items are candidates",
    )
    hide_days: int = Field(28, ge=1, description="Of hide_seen window: days before the cut")
    columns: dict[str, Literal["string", "double", "date", "timestamp", "boolean"]] = Field(
        {},
        description="Columns of input.items that where, caps and boosts speak of, beside those of features.item, with "
        "their types; a value that cannot be read as its type is NULL. A feature of kind number is a double by itself, "
        "all others are strings",
    )
    where: str | None = Field(
        None,
        description="SQL expression over the columns of the items that an item must satisfy to be shown; NULL: it does "
        "not. Beside the attributes there are item_id and label",
    )
    allow: IdTable | None = Field(None, description="Only these items may be shown, such as those on stock")
    deny: IdTable | None = Field(None, description="None of these items may be shown")
    caps: list[Cap] = Field([], description="At most so many items of one value of a column in a list")
    min_score: float | None = Field(
        None, description="Personal items with a lower score (column score of top_n) are left out; others fill up"
    )
    boosts: list[Boost] = Field([], description="Items that are put higher or lower; those of several add up")
    pins: list[Pin] = Field(
        [], description="Items that have their place in the list of each user who may be shown them"
    )
    pin_table: PinTable | None = Field(None, description="Pinned items from a table, beside those of pins")
    explore: Explore = Explore()

    @model_validator(mode="after")
    def _names_are_given_once(self) -> Rules:
        capped = [each.column for each in self.caps]
        pinned, places = [each.item_id for each in self.pins], [each.rank for each in self.pins]
        named: list[tuple[str, list[str] | list[int]]] = [("caps: column", capped), ("pins: item", pinned)]
        for name, values in [*named, ("pins: rank", places)]:
            twice = next((each for each in values if sum(each == other for other in values) > 1), None)
            if twice is not None:
                raise ValueError(f"{name} '{twice}' is there twice")
        return self


class Diversity(Section):
    """Lists whose items are less alike, and less the same for everybody."""

    method: Literal["none", "mmr", "dpp"] = Field(
        "none",
        description="mmr: each next item is good and unlike the nearest one before it (Carbonell and Goldstein 1998); "
        "dpp: good, and unlike all before it together (greedy determinantal point process, Chen et al. 2018)",
    )
    trade_off: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="Weight of being unlike, against the score; 0: the order of the scores, 1: only unlike"
    )
    pool: int = Field(100, ge=1, description="Best candidates of a user that are chosen from")
    long_tail: float = Field(
        0.0,
        ge=0,
        description="What items are ordered by is less so much for the most popular item, and in proportion for the "
        "others: by log(1 + users) / log(1 + users of the most popular)",
    )

    @property
    def on(self) -> bool:
        """Whether it changes any list."""
        return bool((self.method != "none" and self.trade_off) or self.long_tail)
