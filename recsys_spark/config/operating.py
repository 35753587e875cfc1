"""What keeps a root in order."""

from __future__ import annotations

from pydantic import Field

from recsys_spark.config.base import Section


class Retention(Section):
    """Which old runs are deleted, by `recsys-spark prune` and at the end of a whole night."""

    keep_runs: int | None = Field(
        None, ge=1, description="Complete runs of a table and day that are kept; none: all of them"
    )
    keep_days: int | None = Field(
        None, ge=1, description="Days of a table that are kept, back from its newest one; none: all of them"
    )
    grace_hours: float = Field(
        24.0, ge=0, description="A run made so many hours ago or less is kept: somebody may still read it"
    )
