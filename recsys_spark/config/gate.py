"""Whether tonight's model may replace the one before."""

from __future__ import annotations

from pydantic import Field

from recsys_spark.config.base import Section


class Gate(Section):
    """Tonight's model against the one that made the lists before it (the champion), and against plain rules."""

    enabled: bool = Field(
        True, description="Do it; the stage gate is passed over otherwise, and every model is published"
    )
    k: int = Field(10, ge=1, description="List length at which NDCG is compared")
    max_users: int = Field(20_000, ge=1, description="Users that are ranked; a stable sample where there are more")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the intervals; of those of slices, for all together")
    resamples: int = Field(1000, ge=100, description="Samples of the users that the intervals are made from")
    seed: int = Field(1, ge=0, description="Of those samples")
    max_loss: float = Field(
        0.02, ge=0, lt=1, description="Part of the champion's NDCG that may be lost; more, and surely, is a hold"
    )
    max_slice_loss: float = Field(0.1, ge=0, lt=1, description="The same within a slice of the users or items")
    min_users: int = Field(30, ge=2, description="Users of a slice, at least, that it is judged by")
    new_events: int = Field(5, ge=1, description="Users with so many known events at most are the slice 'new users'")
    heavy_share: float = Field(0.1, gt=0, lt=1, description="Share of the users, those with most events: 'heavy users'")
    head_share: float = Field(
        0.8,
        gt=0,
        lt=1,
        description="Share of the recent events that is by the head of the catalogue; the rest are tail items",
    )
    groups: list[str] = Field(
        [], description="User features of kind category: each of their values is a slice, such as an age group"
    )
