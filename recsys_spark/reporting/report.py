"""Stage ``report``: one page on the night, for the person who is asked how it went."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from recsys_spark.config import Settings
from recsys_spark.cuts import TEST, cut, cuts
from recsys_spark.reporting import words
from recsys_spark.reporting.arms import arms
from recsys_spark.reporting.figures import figures
from recsys_spark.reporting.ledger import kept_events, ledger
from recsys_spark.reporting.lists import example_users, lists
from recsys_spark.reporting.night import night_facts
from recsys_spark.reporting.notes import curves, metric_rows, steps
from recsys_spark.reporting.outcome import judgement
from recsys_spark.reporting.page import fill
from recsys_spark.reporting.people import people
from recsys_spark.reporting.plots import curve_plots
from recsys_spark.reporting.popularity import popularity_bias
from recsys_spark.reporting.quality import RIVALS, quality
from recsys_spark.reporting.trend import FIRST, events_of_day, nights, small_multiples, volume_plot
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.champion import training_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PAGE = "report.html"
INDEX_LINK = "../../../_reports/index.html"  # from the page's folder
TEMPLATE = "report.html.j2"

_CURVES = {
    "retrieval_model": (
        "Matrix factorization",
        "one line a snapshot: the model as it would have been at that cut",
    ),
    "ranker": (
        "DeepFM",
        "first without the validation weeks, to choose the number of epochs, then with them",
    ),
}


def write_report(work: Work) -> list[Manifest]:
    """Write the page of the published lists of a day."""
    values = context(work)
    page = render(values)
    work.store.storage.write_bytes(f"{work.store.folder('report', work.stamp)}/{PAGE}", page.encode())
    facts = {"night": night_facts(values, work.inputs)}
    return [work.store.seal(None, "report", work.stamp, extra=facts)]


def context(work: Work) -> dict[str, Any]:
    """All that the template shows."""
    settings = work.settings
    sources, worst = ledger(work)
    stages, memory, seconds, peak_mib = steps(work)
    names = words.models(
        settings.features.recent_days,
        settings.evaluate.half_life_days,
        settings.rules.hide_seen != "all",
        settings.score.over,
    )
    names |= words.SOURCES
    window = cut(work.dt, settings.split, TEST)
    phases = [*[each.name for each in cuts(work.dt, settings.split)], "train", "train + valid"]
    runs, gate, metrics = work.inputs, judgement(work, "gate"), metric_rows(work)
    sure = quality(work, gate)
    headline = "new" if settings.rules.hide_seen == "all" else "all"
    return {
        "settings": settings,
        "index": INDEX_LINK,
        "dt": work.dt,
        "published_at": runs["top_n"].created_at,
        "shown": _shown(work),
        "checks": judgement(work, "checks"),
        "gate": gate,
        "quality": sure,
        "arms": arms(work, sure, metrics),
        "rivals": RIVALS,
        "drift": small_multiples(work),
        "folded": FIRST,
        "volume": volume_plot(work),
        "events_of_day": events_of_day(work),
        "bias": popularity_bias(work),
        "metrics": metrics,
        "headline": headline,
        "sources": sources,
        "worst": worst,
        "events": kept_events(sources),
        "figures": figures(metrics, names, headline, settings.score.by),
        "test_from": words.day(window.time),
        "test_to": words.day(window.until - 1),
        "curves": [
            (*_CURVES[table], plots) for table in _CURVES if (plots := curve_plots(table, curves(work, table), phases))
        ],
        "lists": lists(work),
        "people": people(work.spark, work.store, runs, example_users(work)),
        "stages": stages,
        "memory": memory,
        "seconds": seconds,
        "peak_mib": peak_mib,
        "versions": _versions(work),
        "say_reason": lambda code, like: words.reason(
            code, words.verb(list(settings.events)), settings.features.recent_days, like
        ),
        "kind": words.kind,
        "day": words.day,
        "duration": words.duration,
        "clean": words.clean,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _shown(work: Work) -> bool:
    """Whether readers see the lists of the page."""
    current = work.store.current("top_n", work.dt)
    return current is not None and current.run_id == work.inputs["top_n"].run_id


def render(values: dict[str, Any]) -> str:
    """Fill the page's template."""
    return fill(TEMPLATE, values)


def _versions(work: Work) -> list[tuple[str, str]]:
    runs = work.inputs
    chosen = [
        ("Lists", "top_n"),
        ("Retrieval model", "retrieval_model"),
        ("Ranker", "ranker"),
        ("Metrics", "metrics"),
    ]
    shown = [
        (name, f"run {runs[table].run_id}, content {runs[table].content_hash}")
        for name, table in chosen
        if table in runs
    ]
    trained = [(f"{name}, training", training_of(runs[table])) for name, table in chosen if table in runs]
    return [
        *shown,
        *[each for each in trained if each[1]],
        ("Settings of the lists", f"hash {runs['top_n'].settings_hash}"),
        ("Code", f"recsys_spark {work.stamp.code_version}"),
    ]


def _earlier(spark: SparkSession, settings: Settings, dt: str) -> object:
    """The nights whose checks are beside tonight's."""
    return [[each.dt, each.content_hash] for each in nights(TableStore(settings.root), settings, dt)]


STAGE = Stage(
    name="report",
    does="one page with the counts, curves, figures and example lists",
    run=write_report,
    sections=(
        "name",
        "events",
        "split",
        "features",
        "labels",
        "evaluate",
        "score",
        "gate",
        "watch",
        "experiment",
        "report",
    ),
    inputs=(
        "ledger",
        "quarantine",
        "metrics",
        "retrieval_model",
        "ranker",
        "item_ids",
        "item_stats",
        "user_ids",
        "item_features",
        "user_features",
        "histories",
    ),
    outputs=("report",),
    also=lambda settings: tuple(
        table
        for tables, on in (
            (("checks", "profiles"), settings.watch.enabled),
            (("gate", "user_metrics"), settings.gate.enabled),
        )
        if on
        for table in tables
    ),
    sources=_earlier,
    unseen={"top_n": "score"},  # of a night that was held
    seen_first=True,
)
