"""The whole tree of settings, in the order of the stages."""

from __future__ import annotations

import hashlib
import json
import re
from functools import reduce
from operator import getitem

from pydantic import Field, model_validator

from recsys_spark.config.base import Section
from recsys_spark.config.cleaning import Clean, Privacy
from recsys_spark.config.experiment import Experiment
from recsys_spark.config.features import Features, Split
from recsys_spark.config.gate import Gate
from recsys_spark.config.input import Input
from recsys_spark.config.models import Evaluate, Labels, Publish, Ranker, Report, Retrieval, Score
from recsys_spark.config.operating import Retention
from recsys_spark.config.rules import Diversity, Rules
from recsys_spark.config.sources import Candidates, Cold
from recsys_spark.config.warm_start import WarmStart
from recsys_spark.config.watch import Watch
from recsys_spark.config.where import Launch, Spark, Tracking


class Settings(Section):
    """The whole tree."""

    name: str = Field(description="Shown in the report and in Spark's pages")
    root: str = Field(description="Where all tables are written: a path or a URI (file:, hdfs:, s3a:)")
    buckets: int = Field(64, ge=1, le=32_768, description="User buckets; fixed for the life of a root")
    input: Input
    events: dict[str, float] = Field(description="Known event types and the weight of each", min_length=1)
    clean: Clean = Clean()
    privacy: Privacy = Privacy()
    split: Split = Split()
    features: Features = Features()
    warm_start: WarmStart = WarmStart()
    retrieval: Retrieval = Retrieval()
    candidates: Candidates = Candidates()
    cold: Cold = Cold()
    labels: Labels = Labels()
    ranker: Ranker = Ranker()
    evaluate: Evaluate = Evaluate()
    rules: Rules = Rules()
    diversity: Diversity = Diversity()
    gate: Gate = Gate()
    score: Score = Score()
    experiment: Experiment = Experiment()
    watch: Watch = Watch()
    publish: Publish = Publish()
    report: Report = Report()
    retention: Retention = Retention()
    launch: Launch = Launch()
    spark: Spark = Spark()
    tracking: Tracking = Tracking()

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
    def _labels_have_a_column(self) -> Settings:
        if self.labels.kind == "given" and self.input.interactions.value is None:
            raise ValueError("labels.kind 'given' needs input.interactions.value: the column that holds the labels")
        return self

    @model_validator(mode="after")
    def _a_hidden_id_is_no_attribute(self) -> Settings:
        users = self.input.users
        if users is None or not (self.privacy.user_key_file or self.privacy.user_key_variable):
            return self
        if f"{{{users.id}}}" in (users.label or ""):
            raise ValueError(f"input.users.label: '{{{users.id}}}' would tell the ids that the key of privacy hides")
        shown = [feature.name for feature in self.features.user if feature.source == users.id]
        if shown:
            raise ValueError(f"features.user: {shown} would tell the ids that the key of privacy hides")
        return self

    @model_validator(mode="after")
    def _slices_are_features(self) -> Settings:
        categories = [f.name for f in self.features.user if f.kind == "category"]
        unknown = sorted(set(self.gate.groups) - set(categories))
        if unknown:
            raise ValueError(f"gate.groups: {unknown} are no user features of kind category {categories}")
        return self

    @model_validator(mode="after")
    def _groups_are_features(self) -> Settings:
        categories = [f.name for f in self.features.item if f.kind == "category"]
        unknown = sorted(set(self.features.group) - set(categories))
        if unknown:
            raise ValueError(f"features.group: {unknown} are no item features of kind category {categories}")
        return self

    @model_validator(mode="after")
    def _segments_are_features(self) -> Settings:
        fitting = [f.name for f in self.features.user if f.kind == "category" and not f.hash_buckets]
        unknown = [name for name in self.candidates.segment.by if name not in fitting]
        if unknown:
            raise ValueError(
                f"candidates.segment.by: {unknown} are no user features of kind category, without hashing: {fitting}"
            )
        if "segment" in self.cold.chain and not self.candidates.segment.by:
            raise ValueError("cold.chain: segment needs candidates.segment.by: the user features that make a segment")
        return self

    @model_validator(mode="after")
    def _contents_have_attributes(self) -> Settings:
        names = [feature.name for feature in self.features.item]
        unknown = [name for name in self.cold.features if name not in names]
        if unknown:
            raise ValueError(f"cold.features: {unknown} are no item features {names}")
        asks = {
            "cold.items": self.cold.items,
            "cold.chain: content": "content" in self.cold.chain,
            "candidates.sources: content": "content" in self.candidates.further(),
        }
        asking = [key for key, asked in asks.items() if asked]
        if asking and not names:
            raise ValueError(f"{asking[0]} needs features.item: the attributes that tell what an item is like")
        return self

    @model_validator(mode="after")
    def _histories_are_whole(self) -> Settings:
        if self.retrieval.history and not self.features.whole_users:
            raise ValueError(
                "retrieval.history needs features.whole_users: a batch must hold a user's items together, "
                "or a pair alone would be its own history"
            )
        return self

    @model_validator(mode="after")
    def _hard_negatives_are_candidates(self) -> Settings:
        if self.labels.kind == "given" and self.ranker.hard_negatives:
            raise ValueError("ranker.hard_negatives needs labels.kind candidates: labels that are given are all kept")
        return self

    @model_validator(mode="after")
    def _a_catalogue_has_no_pairs(self) -> Settings:
        if self.score.over == "candidates":
            return self
        if self.score.by == "retrieval":
            raise ValueError("score.over: the retrieval model's order is of the whole catalogue as it is; leave it out")
        if self.labels.kind == "candidates" and self.ranker.pair_features:
            raise ValueError(
                "score.over 'catalogue' needs ranker.pair_features: false (or labels.kind given): features of every "
                "user with every item are never computed"
            )
        return self

    @model_validator(mode="after")
    def _rules_fit_into_a_list(self) -> Settings:
        n, rules = self.score.n, self.rules
        deep = [each.item_id for each in rules.pins if each.rank > n]
        if deep:
            raise ValueError(f"rules.pins: '{deep[0]}' has a rank beyond the list's {n} places (score.n)")
        if len(rules.pins) + rules.explore.places > n:
            raise ValueError(f"rules: {len(rules.pins)} pins and {rules.explore.places} explore.places, score.n is {n}")
        if rules.hide_seen == "window" and self.split.kind != "time":
            raise ValueError(f"rules.hide_seen 'window' needs split.kind time: of kind {self.split.kind}, days move")
        if self.diversity.method != "none" and self.diversity.pool < n:
            raise ValueError(f"diversity.pool is {self.diversity.pool}, but a list has {n} places (score.n)")
        return self

    @model_validator(mode="after")
    def _a_champion_is_judged(self) -> Settings:
        test = self.experiment
        if test.name and "champion" in (test.a, test.b) and not self.gate.enabled:
            raise ValueError(
                "experiment: the champion's lists need gate.enabled, which tells whether its model fits the tables"
            )
        if test.name and "retrieval" in (test.a, test.b) and self.score.by == "retrieval":
            raise ValueError("experiment: score.by is 'retrieval' already, so that both arms would get the same lists")
        return self

    @property
    def in_order_of_score(self) -> bool:
        """Whether the published scores fall along a list: nothing but the models' order decides on its places."""
        rules = self.rules
        pinned = bool(rules.pins) or rules.pin_table is not None
        return not (rules.boosts or pinned or rules.explore.places or self.diversity.on)

    def section_hash(self, *sections: str) -> str:
        """Hash of sections, or keys (``ranker.seed``): it tells whether a finished stage still matches the settings."""
        values = self.model_dump(mode="json")
        chosen = {name: reduce(getitem, name.split("."), values) for name in sections}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]
