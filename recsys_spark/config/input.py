"""Where the raw tables are, and which of their columns mean what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section


class Reader(Section):
    """How files are opened."""

    path: str = Field(description="File, folder or glob; ${NAME} is taken from the environment")
    format: Literal["parquet", "orc", "csv", "json"] = "parquet"
    options: dict[str, str] = Field({}, description="Options of Spark's reader, such as sep, header, encoding")
    fields: list[str] = Field([], description="Column names by position, for CSV files without a header")


class InteractionsInput(Reader):
    """The log: one row an event."""

    user_id: str = Field(description="Column that holds the user's id")
    item_id: str = Field(description="Column that holds the item's id")
    event_time: str = Field(description="Column that holds the time of the event (UTC)")
    event_type: str | None = Field(None, description="Column that holds the kind of event")
    constant_event_type: str | None = Field(None, description="Kind of every event, where no column holds it")
    value: str | None = Field(None, description="Column with a number to keep: quantity, rating, dwell time")
    event_key: str | None = Field(
        None, description="Column that names an event: a second row with it on the same day is a redelivery"
    )
    split: str | None = Field(None, description="Column that says train, valid or test, for split.kind 'column'")
    time_unit: Literal["timestamp", "seconds", "milliseconds", "nanoseconds", "mixed"] = Field(
        "timestamp",
        description="Form of event_time: a timestamp (or ISO text), a number since 1970, or mixed: "
        "ISO text and numbers in one column, whose unit is told by their size",
    )
    day_partition: str | None = Field(
        None,
        description="Key of folders that hold a day of the log each, such as dt in dt=2026-01-31. Folders of later "
        "days than the run's are not read, and a night reads only what came since the night before",
    )

    @model_validator(mode="after")
    def _one_event_type(self) -> InteractionsInput:
        if (self.event_type is None) == (self.constant_event_type is None):
            raise ValueError("set exactly one of event_type and constant_event_type")
        return self


class EntitiesInput(Reader):
    """Users or items with their attributes: one row an entity."""

    id: str = Field(description="Column that holds the id")
    label: str | None = Field(None, description="How a person reads one, such as '{title} ({year})'")


class DeletedUsersInput(Reader):
    """Users who asked to be forgotten: one row an id."""

    id: str = Field(description="Column that holds the id, as in the log")


class Input(Section):
    """Where the raw tables are and which of their columns mean what."""

    interactions: InteractionsInput
    items: EntitiesInput | None = None
    users: EntitiesInput | None = None
    deleted_users: DeletedUsersInput | None = Field(
        None, description="Users whose rows are dropped everywhere, from the next night on"
    )
