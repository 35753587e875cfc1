"""Stage ``report``: one page on the night, for the person who is asked how it went."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from typing import Any

from recsys_spark.cuts import TEST, cut, cuts
from recsys_spark.reporting import words
from recsys_spark.reporting.figures import figures
from recsys_spark.reporting.ledger import kept_events, ledger
from recsys_spark.reporting.lists import example_users, lists
from recsys_spark.reporting.notes import curves, metric_rows, steps
from recsys_spark.reporting.outcome import judgement
from recsys_spark.reporting.people import people
from recsys_spark.reporting.plots import curve_plots
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.champion import training_of

PAGE = "report.html"
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
    page = render(context(work))
    work.store.storage.write_bytes(f"{work.store.folder('report', work.stamp)}/{PAGE}", page.encode())
    return [work.store.seal(None, "report", work.stamp)]


def context(work: Work) -> dict[str, Any]:
    """All that the template shows."""
    settings = work.settings
    sources, worst = ledger(work)
    stages, memory, seconds = steps(work)
    names = words.models(
        settings.features.recent_days, settings.evaluate.half_life_days, settings.rules.hide_seen != "all"
    )
    names |= words.SOURCES
    window = cut(work.dt, settings.split, TEST)
    phases = [*[each.name for each in cuts(work.dt, settings.split)], "train", "train + valid"]
    runs = work.inputs
    return {
        "settings": settings,
        "dt": work.dt,
        "published_at": runs["top_n"].created_at,
        "shown": _shown(work),
        "checks": judgement(work, "checks"),
        "gate": judgement(work, "gate"),
        "sources": sources,
        "worst": worst,
        "events": kept_events(sources),
        "figures": figures(
            metric_rows(work), names, "new" if settings.rules.hide_seen == "all" else "all", settings.score.by
        ),
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
    """Fill the template; every value is escaped, except the plots that this package has drawn."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    # Read through importlib, so that it is also found where the package came as a zip.
    source = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "n": lambda value: f"{value:,}",
        "share": words.share,
        "drawn": lambda svg: Markup(svg),
    }
    return environment.from_string(source).render(**values)


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


STAGE = Stage(
    name="report",
    does="one page with the counts, curves, figures and example lists",
    run=write_report,
    sections=("name", "events", "split", "features", "labels", "evaluate", "score", "report"),
    inputs=(
        "ledger",
        "quarantine",
        "metrics",
        "retrieval_model",
        "ranker",
        "item_ids",
        "user_ids",
        "item_features",
        "user_features",
        "histories",
    ),
    outputs=("report",),
    also=lambda settings: tuple(
        table for table, on in (("checks", settings.watch.enabled), ("gate", settings.gate.enabled)) if on
    ),
    unseen={"top_n": "score"},  # of a night that was held
    seen_first=True,
)
