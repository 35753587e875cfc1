"""What a night's training begins with: the champion's model, or nothing."""

from __future__ import annotations

from pydantic import Field

from recsys_spark.config.base import Section


class WarmStart(Section):
    """Training goes on from the champion's models, where there are some of the same shape."""

    enabled: bool = Field(True, description="Do it; every night trains anew otherwise")
    full_every_nights: int = Field(
        7,
        ge=1,
        description="A night trains anew when the champion's last full training is so many days of data ago; 1: each",
    )
    epochs: int = Field(1, ge=1, description="Passes of a warm night over its examples; no figure chooses their number")
    learning_rate: float = Field(1.0, gt=0, le=10, description="Factor of the learning rates in a warm night")
    recent_days: int = Field(
        7,
        ge=0,
        description="Days before each cut whose pairs the retrieval model sees in a warm night; all since the "
        "champion's cut in any case",
    )
    replay: float = Field(
        0.1, ge=0, le=1, description="Share of the older pairs that it sees too, drawn anew each night"
    )
    ranker: bool = Field(True, description="The ranker is warm too, not the retrieval model alone")
    ranker_share: float = Field(
        0.25, gt=0, le=1, description="Share of the ranker's examples that a warm night sees, drawn anew each night"
    )
    optimizer_state: bool = Field(
        False,
        description="Carry the state of the retrieval model's optimizer too: it is kept beside the vectors, and makes "
        "them up to three times as large",
    )
