"""The two arms of a test on the night's page."""

from __future__ import annotations

from dataclasses import dataclass

from recsys_spark import columns as c
from recsys_spark.arms import ARM
from recsys_spark.reporting.quality import Quality, Spread
from recsys_spark.stage import Work

_DOES = {
    "champion": "the champion's model",
    "tonight": "tonight's model",
    "retrieval": "tonight's retrieval model, without the ranker",
}
MetricRow = tuple[tuple[str, str, str, int], float | None, int]


@dataclass(frozen=True)
class ArmRow:
    """An arm: whose lists, for how many users, and how good offline.

    ``ndcg`` is over the gate's users, where it has ranked them by that model; ``metric`` the metrics table's figure in
    words, where it has not.
    """

    arm: str
    does: str
    model_of: str
    users: int
    rows: int
    items: int
    personal: float
    ndcg: Spread | None
    metric: str


def arms(work: Work, quality: Quality | None, metrics: list[MetricRow]) -> list[ArmRow]:
    """Rows of the arms; none on a night without a test."""
    from pyspark.sql import functions as F

    lists = work.inputs["top_n"]
    ways: dict[str, dict[str, object]] = lists.extra.get("arms", {})
    if not ways:
        return []
    counted = (
        work.store.read(work.spark, lists)
        .groupBy(ARM)
        .agg(
            F.count(F.lit(1)).alias(c.ROWS),
            F.count_if(F.col(c.RANK) == 1).alias("users"),
            F.countDistinct(c.ITEM_ID).alias("items"),
            F.count_if(F.col(c.SOURCE) == "personal").alias("personal"),
        )
        .collect()
    )
    found = {row[ARM]: row for row in counted}
    by_key = {key: value for key, value, _ in metrics}
    rows = []
    for arm, way in sorted(ways.items()):
        row, model = found.get(arm), str(way["model"])
        ranker = way["models"]["ranker"]  # type: ignore[index]
        value = by_key.get(("retrieval", "all", "ndcg", quality.k)) if quality and model == "retrieval" else None
        rows.append(
            ArmRow(
                arm=arm,
                does=_DOES.get(model, model),
                model_of=f"made on {ranker['dt']}",
                users=row["users"] if row else 0,
                rows=row[c.ROWS] if row else 0,
                items=row["items"] if row else 0,
                personal=row["personal"] / row[c.ROWS] if row else 0.0,
                ndcg=quality.of(model) if quality and model != "retrieval" else None,
                metric="–" if value is None else f"{value:.4f}",
            )
        )
    return rows
