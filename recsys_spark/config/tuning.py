"""What `recsys-spark tune` varies, and how long. It is a file of its own: the settings do not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section
from recsys_spark.config.load import parse, read_tree


class Parameter(Section):
    """What is tried for a setting: numbers from low to high, both included, or one of some choices."""

    type: Literal["int", "float"] | None = Field(None, description="int: whole numbers; not with choices")
    low: float | None = Field(None, description="Smallest number")
    high: float | None = Field(None, description="Largest number")
    log: bool = Field(False, description="Even in the logarithm; low must be above 0")
    step: float | None = Field(None, gt=0, description="Only low, low + step, low + 2 steps, …; not with log")
    choices: list[Any] | None = Field(
        None, min_length=2, description="Numbers, words, true, false, null or lists of these"
    )

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Parameter:
        if self.choices is not None:
            if self.type or self.low is not None or self.high is not None or self.log or self.step:
                raise ValueError("choices go without type, low, high, log and step")
            if any(isinstance(each, dict) for each in self.choices):
                raise ValueError("a choice is a value, not a mapping: name the keys one by one")
            if len({repr(each) for each in self.choices}) < len(self.choices):
                raise ValueError("a choice is there twice")
            return self
        if self.type is None or self.low is None or self.high is None:
            raise ValueError("give type, low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        broken = [each for each in (self.low, self.high, self.step or 1) if each != int(each)]
        if self.type == "int" and broken:
            raise ValueError(f"type int has whole bounds and steps, not {broken[0]:g}")
        return self


class Tuning(Section):
    """A search (`recsys-spark tune`): the file that `--space` names."""

    stage: Literal["train-retrieval", "train-ranker"] = Field(description="The training whose settings are varied")
    space: dict[str, Parameter] = Field(
        min_length=1, description="Setting (section.key) to {type, low, high, log, step} or {choices}"
    )
    trials: int = Field(30, ge=1, description="Trials that the study has in the end; failed and pruned ones count")
    timeout_minutes: float | None = Field(None, gt=0, description="No trial begins later than this; none: no limit")
    seeds: list[int] = Field(
        [], description="A trial's value is the mean over trainings with these; empty: the settings' own seed"
    )
    metric: str = Field(
        description="Figure of the validation curve, taken at the epoch that the training keeps: ndcg100_new (by "
        "retrieval.validation_k) or minus_logloss"
    )
    direction: Literal["maximize", "minimize"] = Field("maximize", description="What is better of the metric")
    sampler: Literal["tpe", "random"] = Field("tpe", description="tpe: tree-structured Parzen estimator")
    sampler_seed: int = Field(1, ge=0, description="Same seed, same trials, also where the study was interrupted")
    startup_trials: int = Field(
        5, ge=1, description="First trials: the settings as they are, then random ones; none of them is pruned"
    )
    pruner: Literal["median", "halving", "none"] = Field(
        "median",
        description="What ends a trial early, by its first seed's epochs. median: a best figure below the median of "
        "what finished trials had in that epoch; halving: not among the best third at 1, 3, 9, … epochs",
    )
    warmup_epochs: int = Field(0, ge=0, description="Epochs of a trial in which it is not pruned (pruner median)")
    folder: str | None = Field(
        None, description="Local folder for studies; <root>/_tune by default, needed where the root is not local"
    )

    @model_validator(mode="after")
    def _seeds_are_distinct(self) -> Tuning:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} names one twice")
        return self


def load_tuning(path: str | Path) -> Tuning:
    """Read a search from a YAML file.

    Raises
    ------
    RecsysError
        As ``load_settings``.
    """
    return parse(Tuning, read_tree(path, "--space"), str(path))
