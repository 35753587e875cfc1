"""What may become of an input row, and what each name means. Cleaning applies it, the report explains it."""

from __future__ import annotations

READ = "read"
KEPT = "kept"
DUPLICATE = "duplicate"

# A row that breaks one of these goes to quarantine. The order is the order in which they are tried.
RULES: dict[str, str] = {
    "null_key": "user, item, time or event type is missing",
    "bad_type": "time or value cannot be read as such",
    "id_form": "an id is empty, longer than clean.max_id_length, or holds control characters",
    "event_type": "the event type is not in the settings' events",
    "time_range": "the event is older than clean.earliest",
    "after_date": "the event is later than the run's day: it belongs to a later night",
    "value_range": "the value is NaN, infinite, negative or below clean.min_value",
    "duplicate_id": "a second row with an id that an items or users table already has",
}

OUTCOMES: dict[str, str] = {
    KEPT: "in the cleaned table",
    DUPLICATE: "the same event a second time: counted, then dropped",
    **RULES,
}
