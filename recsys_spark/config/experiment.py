"""An online test of two models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section

Way = Literal["champion", "tonight", "retrieval"]


class Experiment(Section):
    """Two ways to make lists side by side, each for some of the users (an A/B test); `top_n` says whose is whose."""

    name: str | None = Field(
        None,
        pattern=r"^[\w.-]+$",
        description="Name of the test; it decides, with the user's id alone, who is in which arm. None: no test",
    )
    share: float = Field(
        0.5, gt=0, lt=1, description="Share of the users in arm b; a larger one moves nobody back to a"
    )
    a: Way = Field(
        "champion",
        description="Whose lists arm a gets. champion: of the model that made the lists of the night before (its arm "
        "a), which so stays the same as long as the test goes on; tonight: of tonight's model; retrieval: in the order "
        "of tonight's retrieval model",
    )
    b: Way = Field("tonight", description="Whose lists arm b gets")

    @model_validator(mode="after")
    def _two_ways(self) -> Experiment:
        if self.a == self.b:
            raise ValueError(f"a and b are both '{self.a}': a test has two ways to make lists")
        return self
