"""Where candidates come from, how the sources are joined, and what becomes of new items and users."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section

SourceName = Literal["retrieval", "repeat", "item_knn", "content", "segment"]
DEFAULT_MOST = 100  # items that a further source gives


class Source(Section):
    """One source of candidates."""

    name: SourceName = Field(
        description="retrieval: the retrieval model's best; repeat: the user's own earlier items; item_knn: items that "
        "go together with his; content: items like his by their attributes; segment: what is popular in his segment"
    )
    most: int | None = Field(
        None,
        ge=1,
        description="Items that it gives a user at most; null: 'retrieved', 'own' for repeat, 100 for others",
    )
    weight: float = Field(1.0, ge=0, description="Of its scores or ranks (fusion weighted and rrf)")
    quota: int = Field(0, ge=0, description="Its best so many are kept, whatever the fusion says of them")


class Segment(Section):
    """Groups of users, and what is popular in each."""

    by: list[str] = Field(
        [],
        description="User features of kind category whose values together are a segment, the coarsest first. Where a "
        "segment is too small or a value is missing, that of the first features alone is used",
    )
    least_events: int = Field(500, ge=1, description="Recent events of a segment, at least")
    items: int = Field(500, ge=1, description="Popular items of a segment that are kept")


class Candidates(Section):
    """What the ranker is shown for a user."""

    retrieved: int = Field(250, ge=1, description="New items by exact top-k of the retrieval model")
    precision: Literal["exact", "int8"] = Field(
        "exact",
        description="Of the best items by the product of vectors. int8: the exact order, with exact scores, of those "
        "that are best by products of whole numbers, an eighth more of them than are asked for; an item of the exact "
        "list is hardly ever missing",
    )
    own: int = Field(400, ge=0, description="The user's own earlier items at most, where rules.hide_seen is not all")
    sources: list[Source] = Field(
        [],
        description="Sources, of which retrieval must be one; their ranks and scores become pair features. Empty: "
        "retrieval and repeat",
    )
    fusion: Literal["union", "weighted", "rrf", "learned"] = Field(
        "union",
        description="union: all that the sources give. The others keep the best 'most': by the weighted sum of the "
        "scores, each from 0 to 1 within its list; by reciprocal ranks; by a logistic blend of both, fitted on the "
        "validation window",
    )
    most: int = Field(500, ge=1, description="Candidates that a fusion other than union keeps")
    fusion_users: int = Field(5_000, ge=1, description="Users that the learned blend is fitted on, at most")
    neighbours: int = Field(50, ge=1, description="Of an item, for item_knn")
    neighbour_users: int = Field(
        50_000, ge=1, description="Users in whose histories neighbours are looked for; a stable sample of more"
    )
    segment: Segment = Segment()

    @model_validator(mode="after")
    def _sources_fit_together(self) -> Candidates:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: {names} names something twice")
        if names and "retrieval" not in names:
            raise ValueError(f"sources: {names} lacks retrieval, by whose order the pair features are made")
        if "segment" in names and not self.segment.by:
            raise ValueError("sources: segment needs segment.by: the user features that make a segment")
        return self

    def resolved(self, repeats: bool) -> list[Source]:
        """All sources, each with its ``most``; own items only where they may be shown."""
        usual = {"retrieval": self.retrieved, "repeat": self.own}
        asked = self.sources or [Source(name="retrieval"), Source(name="repeat")]
        all_of_them = [
            source.model_copy(update={"most": source.most or usual.get(source.name, DEFAULT_MOST)}) for source in asked
        ]
        return [source for source in all_of_them if source.most and (repeats or source.name != "repeat")]

    def further(self) -> list[str]:
        """Sources whose ranks and scores are pair features, in order."""
        return [source.name for source in self.sources if source.name not in ("retrieval", "repeat")]


class Cold(Section):
    """Items and users of which little is known yet."""

    items: bool = Field(
        False,
        description="Items with few events get vectors from their attributes: a network learns to tell the retrieval "
        "model's vectors of well-known items from theirs",
    )
    min_item_events: int = Field(20, ge=1, description="Events from which an item's own vector stands alone")
    shrinkage: float = Field(
        10.0,
        gt=0,
        description="Events m at which the two count alike: the vector of an item with n events is (n own + m told) "
        "/ (n + m)",
    )
    new_items: bool = Field(False, description="May items without any event be shown? (needs items)")
    features: list[str] = Field([], description="Item features that the network takes; empty: all")
    dim: int = Field(16, ge=1, description="Length of a feature's embedding")
    hidden: list[Annotated[int, Field(ge=1)]] = Field([128], description="Widths of the network's layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="Of the embeddings' numbers, in training")
    epochs: int = Field(40, ge=1, description="Passes over the items at most")
    patience: int = Field(5, ge=1, description="Passes without a better fit of the held-out items before it stops")
    learning_rate: float = Field(0.005, gt=0, description="Step of AdamW")
    held_out: float = Field(0.1, gt=0, lt=1, description="Share of the well-known items that choose the passes")
    seed: int = 1
    min_user_events: int = Field(1, ge=1, description="Events from which a user's list is personal")
    chain: list[Literal["content", "segment"]] = Field(
        [],
        description="What fills the lists of the others, in order, before the popular items do: content: items like "
        "those that the user had; segment: what is popular in his segment",
    )

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Cold:
        if self.new_items and not self.items:
            raise ValueError("new_items needs items: true; without it an item without events has no vector")
        for key in ("chain", "features"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: {getattr(self, key)} names something twice")
        return self
