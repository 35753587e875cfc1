"""What may become of an input row, and what each name means. Cleaning applies it, the report explains it."""

from __future__ import annotations

READ = "read"
KEPT = "kept"
DUPLICATE = "duplicate"
WAITING = "after_date"

# A row that breaks one of these goes to quarantine. The order is the order in which they are tried; after_date stands
# between future and deleted_user.
RULES: dict[str, str] = {
    "unreadable_file": "the file cannot be read at all; its rows cannot be counted",
    "malformed": "the row cannot be taken apart (broken JSON, or another number of fields than the CSV file's header)",
    "missing_column": "the file lacks a column that the settings name as user, item, time or event type",
    "null_key": "user, item, time or event type is missing",
    "bad_type": "time or value cannot be read as such",
    "id_form": "an id is empty, longer than clean.max_id_length, or holds control characters",
    "event_type": "the event type is not in the settings' events",
    "time_range": "the event is older than clean.earliest",
    "too_late": "the event arrived more than clean.look_back_days after its day",
    "future": "the event is stamped more than clean.look_back_days after the day of its folder",
    "deleted_user": "the user asked to be forgotten: counted, and not kept in quarantine either",
    "value_range": "the value is NaN, infinite, below clean.min_value or above clean.max_value",
    "extreme_activity": "the user has far too many events on this day for a person (clean.activity_…)",
    "min_support": "the user or the item has fewer events than clean.min_user_events or clean.min_item_events",
    "duplicate_id": "a second row with an id that an items or users table already has",
}

# Counted, then dropped: the same event as a row that is kept.
DUPLICATES: dict[str, str] = {
    DUPLICATE: "the same event a second time: equal in every column that the settings name",
    "redelivered": "an event key that another row of the same day already has",
    "near_duplicate": "the same user, item and type within clean.near_duplicate_seconds of the event before",
}

OUTCOMES: dict[str, str] = {
    KEPT: "in the cleaned table",
    **DUPLICATES,
    WAITING: "the event is later than the run's day: it stays in the log and waits for its night",
    **RULES,
}

# What a clean.rules_off may name. The others guard what no later stage could do without.
SWITCHABLE = (
    "time_range",
    "too_late",
    "future",
    "value_range",
    "extreme_activity",
    "duplicate",
    "redelivered",
)
