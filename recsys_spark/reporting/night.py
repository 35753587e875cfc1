"""What the index of nights keeps of a night: plain numbers, in the manifest of its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys_spark.reporting.figures import BASELINES, FIRST_METRIC, Figures
from recsys_spark.reporting.ledger import Source
from recsys_spark.reporting.lists import Lists
from recsys_spark.reporting.outcome import Judgement
from recsys_spark.reporting.popularity import Bias
from recsys_spark.reporting.quality import RIVALS, Quality
from recsys_spark.rules import KEPT, READ
from recsys_spark.tables import Manifest

MetricRow = tuple[tuple[str, str, str, int], float | None, int]  # (model, slice, metric, k), value, users


def night_facts(values: Mapping[str, Any], runs: Mapping[str, Manifest]) -> dict[str, Any]:
    """Facts of a night; what is not known is left out.

    Parameters
    ----------
    values : mapping
        What the page shows, see ``report.context``.
    runs : mapping
        The runs that the page is of.
    """
    lists: Lists = values["lists"]
    facts: dict[str, Any] = {
        "top_n": runs["top_n"].run_id,
        "users": lists.users,
        "rows": lists.rows,
        "items": lists.items,
        "catalogue": lists.catalogue,
        "events_of_day": values["events_of_day"],
        "seconds": round(values["seconds"], 1),
        "peak_mib": values["peak_mib"],
        **_log(values["sources"]),
        **_quality(values),
        **_judged(values["gate"], values["checks"]),
    }
    bias: Bias | None = values["bias"]
    if bias is not None:
        facts |= {"gini": round(bias.gini_of_rows, 6), "tail_rows": round(bias.tail_of_rows, 6)}
    judged = runs["gate"].extra if "gate" in runs else {}
    if "champion" in judged:
        facts |= {"champion": judged["champion"]["ranker"]["dt"], "by_champion": "instead" in judged}
    return facts


def _log(sources: list[Source]) -> dict[str, Any]:
    """Rows of the log since its beginning: read, kept, and dropped by rule."""
    found: dict[str, int] = {}
    read = 0
    for source in sources:
        if source.name == "interactions":
            read += source.read
            for outcome in source.outcomes:
                found[outcome.rule] = found.get(outcome.rule, 0) + outcome.rows
    dropped = {rule: rows for rule, rows in found.items() if rule not in (KEPT, READ, "after_date")}  # which waits
    return {READ: read, "kept": found.get(KEPT, 0), "dropped": dropped}


def _quality(values: Mapping[str, Any]) -> dict[str, Any]:
    """NDCG with its interval where each user's is known, else the metrics'; the best plain rule, coverage."""
    figures: Figures = values["figures"]
    quality: Quality | None = values["quality"]
    metrics: list[MetricRow] = values["metrics"]
    headline, published = values["headline"], values["settings"].score.by
    facts: dict[str, Any] = {}
    by_key = {key: value for key, value, _ in metrics if value is not None}
    if figures.headline is not None:
        ours, best, k = figures.headline
        facts |= {"k": k, FIRST_METRIC: round(ours, 6), "best_plain": round(best, 6)}
        rival = [name for name in BASELINES if by_key.get((name, headline, FIRST_METRIC, k)) == best]
        facts |= {"best_plain_name": rival[0]} if rival else {}
        coverage = by_key.get((published, headline, "coverage", k))
        facts |= {} if coverage is None else {"coverage": round(coverage, 6)}
    if quality is not None:
        facts["gate_ndcg"] = {
            name: [round(each.value, 6), round(each.low, 6), round(each.high, 6)]
            for name in RIVALS
            if (each := quality.of(name)) is not None
        }
        facts["gate_k"] = quality.k
    return facts


def _judged(gate: Judgement | None, checks: Judgement | None) -> dict[str, Any]:
    """What failed, and how much of the lists is new."""
    facts: dict[str, Any] = {"failed": []}
    for name, judged in (("gate", gate), ("watch", checks)):
        if judged is not None:
            facts[name] = judged.outcome
            facts["failed"] += [{"level": row["level"], "says": row["says"]} for row in judged.failed]
    for row in [] if checks is None else checks.failed + checks.passed:
        if row["name"] == "list_change":
            facts["list_change"] = round(row["value"], 6)
        if row["name"] == "volume" and row["source"] == "interactions" and not row["column"]:
            facts["volume"] = row["says"]
    return facts
