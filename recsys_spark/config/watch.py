"""What is looked at before tonight's lists are shown."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section

Check = Literal[
    "freshness", "volume", "refused", "bots", "new_values", "nulls", "drift", "coverage", "catalogue", "list_change"
]
Share = Annotated[float, Field(ge=0, le=1)]


class OnAlarm(Section):
    """Who is told when a night is not as it should be: alarms, a held night, a night that failed."""

    command: str | None = Field(
        None, description="Program with its arguments, no shell; gets the outcome as JSON on its standard input"
    )
    webhook: str | None = Field(None, pattern="^https?://", description="URL that the same JSON is posted to")
    timeout_seconds: float = Field(10.0, gt=0, description="For each of them; one that fails never fails the night")


class Watch(Section):
    """Tonight's tables against those of the days before; what lies beyond a limit is an alarm, or holds the night."""

    enabled: bool = Field(True, description="Do it; the stage watch is passed over otherwise")
    days: int = Field(7, ge=1, description="Days before tonight's that it is compared with")
    hold: list[Check] = Field(
        ["freshness"], description="Checks that hold the night: tonight's lists are not shown. All others are alarms"
    )
    max_age_hours: float = Field(
        24.0, gt=0, description="freshness: age of the newest event at the end of the run's day, at most"
    )
    volume_low: float = Field(
        0.6,
        ge=0,
        le=1,
        description="volume: events and users of the day, against the median of the days before, and against a week "
        "ago, at least",
    )
    volume_high: float = Field(2.0, ge=1, description="volume: and at most")
    refused: Share = Field(0.05, description="refused: rise of the share of rows in quarantine, at most, beyond chance")
    bots: Share = Field(
        0.1,
        description="bots: share of the day's events by users who had more than twice as many as anybody on the days "
        "before, at most",
    )
    new_values: Share = Field(
        0.05, description="new_values: share of rows with a value that no day before had, of a category, at most"
    )
    nulls: Share = Field(0.1, description="nulls: rise of the share of rows without a value, at most, beyond chance")
    psi: float = Field(
        0.25,
        ge=0,
        description="drift: population stability index at most, beyond what chance gives once in 1,000 times",
    )
    ks: Share = Field(
        0.2, description="drift: Kolmogorov–Smirnov distance at most, beyond what chance gives once in 1,000 times"
    )
    coverage: Share = Field(0.9, description="coverage: users with a list, against the table before, at least")
    catalogue: Share = Field(
        0.5, description="catalogue: items that are on some list, against the table before, at least"
    )
    max_list_change: Share = Field(
        0.9, description="list_change: mean share of a user's list that was not on it before, at most"
    )
    sample_users: int = Field(100_000, ge=1, description="Users whose lists are compared; a stable sample")
    on_alarm: OnAlarm = OnAlarm()

    @model_validator(mode="after")
    def _held_once(self) -> Watch:
        if len(set(self.hold)) < len(self.hold):
            raise ValueError(f"hold: {self.hold} names one twice")
        return self
