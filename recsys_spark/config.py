"""Every setting, in one typed tree, read from YAML.

Read ``Settings`` from the bottom of this file upwards: it names the sections, in the order of the stages.
``recsys-spark settings`` prints this page with each default and unit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recsys_spark.errors import RecsysError


class Section(BaseModel):
    """A part of the settings tree: unknown keys are refused, values cannot be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ---------------------------------------------------------------- input
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
    time_unit: Literal["timestamp", "seconds", "milliseconds", "nanoseconds"] = Field(
        "timestamp", description="Form of event_time: a timestamp (or ISO text), or a number since 1970"
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


class Input(Section):
    """Where the raw tables are and which of their columns mean what."""

    interactions: InteractionsInput
    items: EntitiesInput | None = None
    users: EntitiesInput | None = None


# ---------------------------------------------------------------- stages
class Clean(Section):
    """Rules that a row must pass."""

    earliest: str = Field(
        "1990-01-01", description="Events before this day, of 1970 or later, are quarantined (time_range)"
    )
    max_id_length: int = Field(256, ge=1, description="Longer ids are quarantined (id_form); characters")
    min_value: float | None = Field(None, description="Rows with a smaller value are quarantined (value_range)")
    max_quarantine_share: float = Field(
        0.2, ge=0, le=1, description="Share of bad rows in one file above which nothing is published"
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


class Split(Section):
    """Global time split, counted back from the end of the run's day."""

    valid_days: int = Field(28, ge=1, description="Days of the validation window, before the test window")
    test_days: int = Field(28, ge=1, description="Days of the test window, the newest")
    ranker_windows: int = Field(
        4, ge=2, description="Label windows of valid_days for the ranker; the last is the validation window"
    )


class Feature(Section):
    """One attribute of a user or an item, and its encoding."""

    name: str
    column: str | None = Field(None, description="Column of the input table; the name where it is not given")
    kind: Literal["category", "list", "number"] = "category"
    separator: str = Field(r"\|", description="Regular expression between the values of a list")
    max_length: int = Field(8, ge=1, description="Values of a list that are kept")
    extract: str | None = Field(None, description="Regular expression; its first group is the value")
    buckets: int = Field(16, ge=2, description="Quantile buckets of a number")
    min_count: int = Field(1, ge=1, description="Rarer categories are encoded as unknown")
    ranker: bool = Field(True, description="Is it a field of the ranker? If not, it may still serve in group")

    @property
    def source(self) -> str:
        """Name of the input column."""
        return self.column or self.name


class Features(Section):
    """Which attributes the ranker sees, and how the examples are written."""

    user: list[Feature] = []
    item: list[Feature] = []
    group: list[str] = Field(
        [],
        description="Item features of kind category in whose values a user's habits are counted (pair features)",
    )
    recent_days: int = Field(28, ge=1, description="Window of the recent popularity")
    history_length: int = Field(5_000, ge=1, description="Newest events of a user that are kept")
    row_group_rows: int = Field(100_000, ge=1, description="Rows that a row group of the examples aims at")
    min_row_groups: int = Field(4, ge=1, description="Row groups at least, so that every rank has some")


class Training(Section):
    """What both trainings share."""

    epochs: int = Field(ge=1, description="Passes over the examples at most")
    batch_size: int = Field(4096, ge=1, description="Rows of one rank's step")
    learning_rate: float = Field(gt=0)
    patience: int = Field(2, ge=1, description="Epochs without a better validation figure before it stops")
    seed: int = 1
    keep_checkpoints: int = Field(2, ge=1)


class Retrieval(Training):
    """Matrix factorization with sampled softmax."""

    epochs: int = Field(3, ge=1, description="Passes over the examples at most")
    refit_epochs: int = Field(1, ge=1, description="Passes of the refit at each later cut, on from the one before")
    learning_rate: float = Field(0.01, gt=0, description="Step of Adam, on the rows of a batch")
    dim: int = Field(64, ge=1, description="Length of the vectors")
    negatives: int = Field(384, ge=1, description="Negatives that a batch shares, drawn by popularity to the power 0.5")
    half_life_days: float = Field(120.0, gt=0, description="Age at which an event counts half in training")
    weight_decay: float = Field(0.015, ge=0, description="L2 on the vectors of a batch")
    init_std: float = Field(0.01, gt=0, description="Standard deviation of the first vectors")
    validation_users: int = Field(2_000, ge=1, description="Users of the validation ranking, at most")


class Candidates(Section):
    """What the ranker is shown for a user."""

    retrieved: int = Field(250, ge=1, description="New items by exact top-k of the retrieval model")
    own: int = Field(400, ge=0, description="The user's own earlier items at most, where repeats are kept")


class Ranker(Training):
    """DeepFM over the candidates."""

    batch_size: int = Field(1024, ge=1, description="Rows of one rank's step")
    epochs: int = Field(3, ge=1, description="Passes over the examples at most")
    learning_rate: float = Field(0.002, gt=0, description="Step of AdamW")
    dim: int = Field(8, ge=1, description="Length of a field's embedding")
    hidden: list[Annotated[int, Field(ge=1)]] = Field([128, 64], description="Widths of the deep part's layers")
    dropout: float = Field(0.1, ge=0, lt=1)
    buckets: int = Field(16, ge=2, description="Quantile buckets of a pair feature")
    embedding_decay: float = Field(10.0, ge=0, description="Decoupled weight decay of the embeddings")
    deep_decay: float = Field(0.1, ge=0, description="Decoupled weight decay of the deep part")
    negative_share: float = Field(0.15, gt=0, le=1, description="Share of the unlabelled candidates that is kept")


class Evaluate(Section):
    """Offline figures on the test window."""

    ks: list[Annotated[int, Field(ge=1)]] = Field([10, 20, 100], min_length=1, description="List lengths")
    max_users: int = Field(50_000, ge=1, description="Users that are ranked; a stable sample where there are more")
    neighbours: int = Field(50, ge=1, description="Neighbours of an item in the ItemKNN row")
    half_life_days: float = Field(90.0, gt=0, description="Half-life of the decayed repeat-purchase row")


class Score(Section):
    """The published lists."""

    n: int = Field(20, ge=1, description="Rows a user gets")
    repeats: bool = Field(False, description="May a list hold items that the user already has?")


class Publish(Section):
    """Checks before readers see the new lists."""

    min_users_share: float = Field(
        0.8, ge=0, le=1, description="Users of the new table, against the table published before it, at least"
    )


class Report(Section):
    """The night's page."""

    examples: int = Field(5, ge=0, description="Users whose lists are shown")


# ---------------------------------------------------------------- where it runs
class Launch(Section):
    """How the training processes start. Changes no result, given the same number of ranks."""

    launcher: Literal["local", "horovodrun", "spark"] = Field(
        "local",
        description="local: one process without Horovod; horovodrun: on hosts; spark: on the executors",
    )
    ranks: int = Field(1, ge=1, description="Training processes")
    hosts: str | None = Field(None, description="horovodrun's hosts, such as 'a:2,b:2'; this machine by default")
    threads: int = Field(1, ge=1, description="Torch threads of a rank")
    start_timeout: int = Field(120, ge=1, description="Seconds until all ranks must have started")

    @model_validator(mode="after")
    def _local_is_one(self) -> Launch:
        if self.launcher == "local" and self.ranks != 1:
            raise ValueError("launcher 'local' is one process: use 'horovodrun' or 'spark' for more ranks")
        return self


class Spark(Section):
    """Spark's session, where `spark-submit` has not settled it."""

    master: str = Field("local[*]", description="Used unless spark-submit gives one")
    driver_memory: str = Field("2g", description="Java heap of the driver; in local mode it is the whole job's")
    shuffle_partitions: int = Field(8, ge=1)
    conf: dict[str, str] = {}


class Settings(Section):
    """The whole tree."""

    name: str = Field(description="Shown in the report and in Spark's pages")
    root: str = Field(description="Where all tables are written: a path or a URI (file:, hdfs:, s3a:)")
    buckets: int = Field(64, ge=1, le=32_768, description="User buckets; fixed for the life of a root")
    input: Input
    events: dict[str, float] = Field(description="Known event types and the weight of each", min_length=1)
    clean: Clean = Clean()
    split: Split = Split()
    features: Features = Features()
    retrieval: Retrieval = Retrieval()
    candidates: Candidates = Candidates()
    ranker: Ranker = Ranker()
    evaluate: Evaluate = Evaluate()
    score: Score = Score()
    publish: Publish = Publish()
    report: Report = Report()
    launch: Launch = Launch()
    spark: Spark = Spark()

    @model_validator(mode="after")
    def _feature_names(self) -> Settings:
        for side, features in (("user", self.features.user), ("item", self.features.item)):
            names = [feature.name for feature in features]
            taken = {"index", "label", f"{side}_id"}
            for place, name in enumerate(names):
                if name in names[:place]:
                    raise ValueError(f"features.{side}: '{name}' is there twice")
                if name in taken or name.startswith(("attribute_", "__")) or not re.fullmatch(r"\w+", name):
                    raise ValueError(
                        f"features.{side}: '{name}' cannot be a name (letters, digits and _ only; "
                        f"not {', '.join(sorted(taken))}, attribute_…, __…); give the input's column as 'column'"
                    )
        return self

    @model_validator(mode="after")
    def _features_have_a_table(self) -> Settings:
        for side in ("user", "item"):
            if getattr(self.features, side) and getattr(self.input, f"{side}s") is None:
                raise ValueError(f"features.{side} needs input.{side}s: where the attributes are")
        bad = {name: weight for name, weight in self.events.items() if not weight > 0}
        if bad:
            raise ValueError(f"events: weights must be above 0, given {bad}; leave out a type that must not count")
        return self

    @model_validator(mode="after")
    def _groups_are_features(self) -> Settings:
        categories = [f.name for f in self.features.item if f.kind == "category"]
        unknown = sorted(set(self.features.group) - set(categories))
        if unknown:
            raise ValueError(f"features.group: {unknown} are no item features of kind category {categories}")
        return self

    def section_hash(self, *sections: str) -> str:
        """Hash of the named sections, to tell whether a finished stage still matches the settings."""
        values = self.model_dump(mode="json")
        chosen = {name: values[name] for name in sections}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def load_settings(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """Read settings from a YAML file.

    Parameters
    ----------
    path : str or Path
        The file.
    overrides : list of str, optional
        Changes such as ``retrieval.dim=32``; the value is read as YAML.

    Raises
    ------
    RecsysError
        The file is missing or is no YAML; a key is unknown; a value has the wrong type; a variable is not set.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecsysError(f"cannot read the settings ({error.strerror})", str(path), "Check --config.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise RecsysError(f"not valid YAML ({where})", str(path), "Mend the file.") from error
    if not isinstance(tree, dict):
        raise RecsysError("the settings are not a mapping", str(path), "Start from a file in jobs/conf.")
    for override in overrides or []:
        _set(tree, override)
    return parse_settings(_with_variables(tree, str(path)), str(path))


def parse_settings(tree: dict[str, Any], where: str = "settings") -> Settings:
    """Check a tree of plain values; the first problem is told in one line."""
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "settings"
        if first["type"] == "extra_forbidden":
            close = get_close_matches(str(first["loc"][-1]), _keys(), n=1)
            hint = f"Did you mean '{close[0]}'?" if close else "See 'recsys-spark settings' for all keys."
            raise RecsysError(f"unknown key '{key}'", where, hint) from error
        message = first["msg"].removeprefix("Value error, ")
        given = f" (given: {first['input']!r})" if isinstance(first["input"], str | int | float) else ""
        raise RecsysError(
            f"setting '{key}': {message}{given}", where, "See 'recsys-spark settings' for its meaning."
        ) from error


def _keys() -> list[str]:
    names: set[str] = set()

    def walk(schema: dict[str, Any]) -> None:
        names.update(schema.get("properties", {}))
        for definition in schema.get("$defs", {}).values():
            walk(definition)

    walk(Settings.model_json_schema())
    return sorted(names)


def _set(tree: dict[str, Any], override: str) -> None:
    key, found, value = override.partition("=")
    if not found or not key:
        raise RecsysError(f"'{override}' is no change of a setting", "--set", "Write it as section.key=value.")
    *parents, last = key.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise RecsysError(f"'{part}' of '{key}' has a value, not keys", "--set", "Check the key's path.")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise RecsysError(f"the value of '{override}' is not valid YAML ({where})", "--set", "Quote it.") from error


def _with_variables(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_variables(each, where) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_variables(each, where) for each in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda match: _variable(match.group(1), where), value)
    return value


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise RecsysError(f"the variable {name} is not set", where, f"Run it as {name}=... recsys-spark ...")
    return os.environ[name]
