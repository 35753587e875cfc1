"""Rules that a raw row must pass, and what is done for privacy."""

from __future__ import annotations

from datetime import date

from pydantic import Field, field_validator, model_validator

from recsys_spark.config.base import Section
from recsys_spark.rules import SWITCHABLE


class Clean(Section):
    """Rules that a row must pass."""

    earliest: str = Field(
        "1990-01-01", description="Events before this day, of 1970 or later, are quarantined (time_range)"
    )
    max_id_length: int = Field(256, ge=1, description="Longer ids are quarantined (id_form); characters")
    min_value: float | None = Field(
        None, description="Rows with a smaller value are quarantined (value_range); below 0 by default"
    )
    max_value: float | None = Field(None, description="Rows with a larger value are quarantined (value_range)")
    rules_off: list[str] = Field([], description="Names of rules that are not applied; see SWITCHABLE in rules.py")
    look_back_days: int = Field(
        3, ge=0, description="Events that stand in a folder of input.interactions.day_partition this many days after "
        "(too_late) or before (future) their own day are still taken"
    )  # fmt: skip
    near_duplicate_seconds: float = Field(
        0.0, ge=0, description="The same user, item and type again within this time is a near_duplicate; 0: never"
    )
    activity_floor: int = Field(
        2_000, ge=1, description="Events of a user on one day that are never too many (extreme_activity)"
    )
    activity_mads: float = Field(
        10.0,
        gt=0,
        description="Above the floor: robust standard deviations (1.4826 × median absolute deviation) of log(events) "
        "over the day's users, above their median, from which on a user's day is extreme_activity",
    )
    min_user_events: int = Field(1, ge=1, description="Users with fewer events are set aside (min_support)")
    min_item_events: int = Field(1, ge=1, description="Items with fewer events are set aside (min_support)")
    max_quarantine_share: float = Field(
        0.2, ge=0, le=1, description="Share of bad rows in one file, or of one day, above which nothing is published"
    )
    max_unreadable_share: float = Field(
        0.1, ge=0, le=1, description="Share of unreadable files of one input above which nothing is published"
    )

    @field_validator("earliest", mode="before")
    @classmethod
    def _a_day(cls, value: object) -> str:
        try:
            day = date.fromisoformat(str(value))  # YAML reads an unquoted day as a date
        except ValueError as error:
            raise ValueError("must be a day, YYYY-MM-DD") from error
        if day.year < 1970:
            raise ValueError("must not be before 1970-01-01")
        return day.isoformat()

    @field_validator("rules_off")
    @classmethod
    def _known_rules(cls, names: list[str]) -> list[str]:
        unknown = sorted(set(names) - set(SWITCHABLE))
        if unknown:
            raise ValueError(f"{unknown} cannot be switched off; these can: {', '.join(SWITCHABLE)}")
        return names


class Privacy(Section):
    """User ids replaced by a keyed hash (HMAC-SHA-256) before anything is written. The key is no setting."""

    user_key_file: str | None = Field(None, description="File that holds the key, 16 bytes or more")
    user_key_variable: str | None = Field(None, description="Name of the environment variable that holds the key")

    @model_validator(mode="after")
    def _one_key(self) -> Privacy:
        if self.user_key_file and self.user_key_variable:
            raise ValueError("set user_key_file or user_key_variable, not both")
        return self

    @property
    def hashes_users(self) -> bool:
        """Whether user ids are replaced."""
        return bool(self.user_key_file or self.user_key_variable)
