from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from small_night import CURVES, DT, METRICS, MODELS, ROWS, SCRIPT, WorkFactory

from recsys_spark.reporting import words
from recsys_spark.reporting.figures import figures
from recsys_spark.reporting.night import night_facts
from recsys_spark.reporting.plots import curve_plots
from recsys_spark.reporting.popularity import bias_of
from recsys_spark.reporting.report import STAGE, context, render, write_report
from recsys_spark.reporting.trend import nights, small_multiples
from recsys_spark.resampling import intervals
from recsys_spark.rules import RULES
from recsys_spark.tables import TableStore

VOID = {"meta", "br", "path", "use", "rect", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Text, tags and resources of a page; fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.links = "", [], []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data + " "


def page_of(work: WorkFactory, **changes: object) -> tuple[str, Page]:
    html = render(context(work(**changes)))
    return html, Page(html)


def test_checks_are_on_the_page_the_worst_first(work: WorkFactory) -> None:
    html, page = page_of(work)
    for name, *_, says in ROWS["checks"]:
        assert name in page.text
        assert says.split("'")[0] in page.text
    assert "These lists are not shown" not in page.text
    section = html[html.index('id="checks"') :]
    assert section.index("most of all") < section.index("450 rows") < section.index("1.0 hours older")
    assert "<script>" not in html.lower()
    html, page = page_of(work, without=("checks",))
    assert 'id="checks"' not in html


def test_every_number_of_the_metrics_table_is_on_the_page(work: WorkFactory) -> None:
    _, page = page_of(work)
    for _, _, _, metric, _, value, _ in ROWS["metrics"]:
        shown = f"{100 * value:.2f} %" if metric == "coverage" else f"{value:.4f}"
        assert shown in page.text, (metric, value)
    for name, _ in words.models(28, 60.0, True).values():
        assert name in page.text
    assert page.text.count("published ") >= 4  # the tag, in both slices and at both lengths
    assert "50 users" in page.text
    assert "51 users" in page.text


def test_the_ledger_is_told_by_source_and_rule(work: WorkFactory) -> None:
    _, page = page_of(work)
    assert "1,244 rows read from 2 files" in page.text
    assert "1,234" in page.text
    assert RULES["null_key"] in page.text
    assert '{"user": null, "item": "<b>"}' in page.text
    assert "4 rows read from <items>.parquet" in page.text


def test_hostile_names_stay_text(work: WorkFactory) -> None:
    html, page = page_of(work, name="<img src=x onerror=alert(1)>")
    assert SCRIPT in page.text
    assert "bob<i>" in page.text
    assert "<b>odd" in page.text
    assert {"script", "img", "b>odd", "link", "iframe"}.isdisjoint(page.tags)
    assert "\x1b" not in html
    assert "\u202e" not in html
    outward = [link for link in page.links if not link.startswith("#")]
    assert outward == ["../../../_reports/index.html"], "the page needs nothing beside itself; this is a way to go on"


def test_lists_are_told_in_words(work: WorkFactory) -> None:
    given = work()
    settings = given.settings.model_copy(update={"events": {"view": 1.0}})
    page = Page(render(context(replace(given, settings=settings))))
    assert "viewed 3 times, last 3 days ago" in page.text
    assert "viewed once, 1 day ago" in page.text
    assert "popular: 1,234 events in the last 28 days" in page.text
    assert "new, fits the taste" in page.text
    assert "4 events with 2 items, 2024-03-01 to 2024-03-07" in page.text
    assert "4 different items of 4" in page.text
    assert "1 user has the popular list" in page.text


def test_examples_are_the_same_each_time_and_hold_a_popular_list(work: WorkFactory) -> None:
    chosen = [[person.user_id for person in context(work(report={"examples": 2}))["people"]] for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 2
    assert chosen[0][-1] == "cold"
    assert context(work(report={"examples": 0}))["people"] == []


def test_time_and_memory_of_the_stages(work: WorkFactory) -> None:
    _, page = page_of(work)
    assert "1 min 15 s" in page.text
    assert "peak, all processes, MiB" in page.text
    assert "9,876" in page.text
    assert "odd<i>" in page.text


@pytest.mark.parametrize(
    "without",
    [("metrics",), ("quarantine",), ("retrieval_model", "ranker"), ("user_features", "item_features")],
)
def test_a_missing_part_leaves_a_whole_page(work: WorkFactory, without: tuple[str, ...]) -> None:
    html, page = page_of(work, without=without)
    assert "What came in" in page.text
    assert ("No figures yet" in page.text) == ("metrics" in without)
    assert ("Training loss" in html) == ("ranker" not in without)


def test_missing_and_torn_side_files(work: WorkFactory, night: TableStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(night.storage.path(), copy)
    store = TableStore(str(copy))
    store.storage.write_bytes(f"{night.need('ranker', DT).folder}/curves.json", b'{"curves": ')
    store.storage.delete_folder("_stages")
    html, page = page_of(work, store=store)
    assert "No notes of the stages" in page.text
    assert html.count("Training loss") == 2  # as a title, and for those who do not see the drawing


def test_the_stage_writes_one_sealed_file(work: WorkFactory, night: TableStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(night.storage.path(), copy)
    (manifest,) = write_report(work(store=TableStore(str(copy))))
    assert [each.name for each in manifest.files] == ["report.html"]
    assert (copy / manifest.folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert STAGE.outputs == ("report",)


# ---------------------------------------------------------------- intervals, popularity, drift, the index's facts
def test_figures_have_intervals_and_slices(work: WorkFactory) -> None:
    html, page = page_of(work)
    values = 0.4 + 0.01 * (np.arange(2, 42) % 7)
    low, high = intervals(values[:, None], 0.95, 1000, 1)[0]
    assert f"tonight's model {values.mean():.4f}, {low:.4f} to {high:.4f}" in unescape(html)
    for shown in ("the same 40 users", "tail items only 20 users", "more events 36 users"):
        assert shown in page.text
    assert "-0.2000, -0.3000 to -0.1000" in html
    found = context(work())["quality"]
    assert [part.users for part in found.parts] == [40, 36, 4, 20]  # nobody has few events
    assert found.models == ["tonight's model", "the champion", "own items", "most popular"]


def test_the_lists_lean_to_what_is_popular(work: WorkFactory) -> None:
    found = context(work())["bias"]
    # rows: i1 twice (6 recent events), i2 twice (3), i3 once (1), i4 once (none; another cut's events do not count)
    assert found.mean_of_rows == pytest.approx((6 + 6 + 3 + 3 + 1 + 0) / 6)
    assert found.mean_of_events == pytest.approx((36 + 9 + 1) / 10)
    assert found.new_rows == pytest.approx(1 / 6)
    assert sum(group.of_events for group in found.groups) == pytest.approx(1)
    assert sum(group.of_rows for group in found.groups) == pytest.approx(5 / 6)
    assert context(work(without=("item_stats",)))["bias"] is None


@pytest.mark.parametrize("seed", range(3))
def test_bias_is_that_of_the_items_one_by_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    events, shown = draw.permutation(np.arange(100)), draw.integers(0, 9, 100)
    found = bias_of(events, shown, np.ones(100, np.int64), 0.8)
    assert found is not None
    order = np.argsort(-events)[:99]  # one has no event
    share = np.repeat(shown[order] / 10, 10).reshape(10, 99).sum(axis=1) / shown.sum()  # tenths of items, ten by ten
    assert [group.of_rows for group in found.groups] == pytest.approx(share)
    head = np.searchsorted(np.cumsum(events[order]), 0.8 * events.sum()) + 1
    assert found.tail_of_events == pytest.approx(0.2)
    assert found.tail_of_rows == pytest.approx(1 - shown[order[:head]].sum() / shown.sum(), abs=0.03)
    pairs = np.abs(shown[:, None] - shown[None, :]).sum()
    assert found.gini_of_rows == pytest.approx(pairs / (2 * 100 * shown.sum()))
    kinds, counts = np.unique(np.stack([events // 10, shown], axis=1), axis=0, return_counts=True)
    grouped = bias_of(kinds[:, 0], kinds[:, 1], counts, 0.8)
    alone = bias_of(events // 10, shown, np.ones(100, np.int64), 0.8)
    assert grouped == alone


def test_bias_of_nothing() -> None:
    none, some = np.zeros(1, np.int64), np.ones(1, np.int64)
    assert bias_of(none, some, some, 0.8) is None
    assert bias_of(some, none, some, 0.8) is None
    one = bias_of(some, some, some, 0.8)
    assert one is not None
    assert sum(group.of_rows for group in one.groups) == pytest.approx(1)


def test_checks_are_drawn_from_night_to_night(work: WorkFactory, night: TableStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(night.storage.path(), copy)
    store = TableStore(str(copy))
    shutil.copytree(copy / "checks" / f"dt={DT}", copy / "checks" / "dt=2024-03-08")
    manifest = next((copy / "checks" / "dt=2024-03-08").glob("run=*/_manifest.json"))
    manifest.write_text(manifest.read_text().replace(DT, "2024-03-08"))
    given = work(store=store)
    drawn = small_multiples(given)
    assert [each.failed for each in drawn] == [True, True, False]
    assert drawn[-1].name == "freshness"
    assert "no value, 1.000, no value, 1.000; limit 24.000" in drawn[-1].svg
    store.storage.write_bytes("checks/dt=2024-03-07/_current.json", b"{")
    assert len(nights(store, given.settings, DT)) == 1
    html, page = page_of(work, store=store)
    assert "Events and users of each of the last days" in page.text
    assert html.count('class="spark"') == 3


def test_what_the_index_keeps(work: WorkFactory) -> None:
    given = work()
    facts = night_facts(context(given), given.inputs)
    assert facts["top_n"] == given.inputs["top_n"].run_id
    assert (facts["read"], facts["kept"], facts["dropped"]) == (1_244, 1_234, {"duplicate": 3, "null_key": 7})
    assert facts["events_of_day"] == 450
    assert facts["peak_mib"] == 9_876
    assert facts["gate_ndcg"]["tonight"][0] == pytest.approx(0.43, abs=0.002)
    assert [row["level"] for row in facts["failed"]] == ["hold", "hold", "alarm"]
    assert json.loads(json.dumps(facts)) == facts


# ---------------------------------------------------------------- figures and plots
def rows(**changes: float | None) -> list[tuple[tuple[str, str, str, int], float | None, int]]:
    return [((model, "all", "ndcg", 10), changes.get(model, 0.1), 9) for model in MODELS]


def test_the_best_of_a_column_is_marked_and_ties_are_all_best() -> None:
    names = words.models(28, 60.0, True)
    grid = figures(rows(ranker=0.3, repeat=0.3, retrieval=None), names).blocks[0].first
    assert [line.cells[0].best for line in grid.lines] == [False, False, True, False, False, False, True, False]
    assert [line.cells[0].text for line in grid.lines][5] == "–"
    assert [line.name for line in grid.lines if line.published] == [names["ranker"][0]]


@pytest.mark.parametrize(("ours", "words_"), [(0.2, "is ahead of"), (0.05, "is behind"), (0.1, "is level with")])
def test_the_verdict_is_honest(ours: float, words_: str) -> None:
    block = figures(rows(ranker=ours), words.models(28, 60.0, True)).blocks[0]
    assert words_ in block.verdict
    assert block.ahead == (ours >= 0.1)


def test_no_list_length_of_ten_and_unknown_names() -> None:
    given = [(("mine", "odd", "novelty", 7), 0.5, 3), (("ranker", "all", "ndcg", 5), 0.5, 3)]
    found = figures(given, words.models(28, 60.0, False))
    assert [(block.name, block.first.k) for block in found.blocks] == [("Repeats counted", 5), ("odd", 7)]
    assert found.headline is None
    assert len(METRICS) == len(words.METRICS)


BY_SOURCE = [
    (("source:item_knn", "new", "ndcg", 10), 0.0321, 9),
    (("ranker", "source:personal", "ndcg", 10), 0.0711, 9),
    (("ranker", "source:personal", "recall", 10), 0.0722, 9),
    (("ranker", "source:segment", "ndcg", 10), 0.0811, 9),
    (("ranker", "source:segment", "recall", 10), 0.0822, 9),
    (("ranker", "source:popular", "ndcg", 10), 0.0, 9),
    (("ranker", "source:popular", "recall", 10), 0.0, 9),
    (("candidates", "new", "recall", 0), 0.456, 9),
    (("candidates", "new", "candidates", 0), 321.4, 9),
]


def test_sources_have_figures_of_their_own_and_no_slice() -> None:
    found = figures([*rows(), *BY_SOURCE], words.models(28, 60.0, True) | words.SOURCES)
    assert [block.name for block in found.blocks] == ["Repeats counted", "New items only"]
    assert [line.name for line in found.blocks[1].first.lines] == ["Source item_knn"]
    assert [(row.source, row.k, row.ndcg, row.recall) for row in found.by_source] == [
        ("segment", 10, 0.0811, 0.0822),
        ("personal", 10, 0.0711, 0.0722),
    ]
    assert found.candidates == [(0.456, 321.4, 9, "New items only")]
    without = figures(rows(), words.models(28, 60.0, True))
    assert (without.by_source, without.candidates) == ([], [])


def test_what_sources_add_is_on_the_page(work: WorkFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = page_of(work)
    assert "What each source adds" not in before.text
    monkeypatch.setattr("recsys_spark.reporting.report.metric_rows", lambda _: [*rows(), *BY_SOURCE])
    _, page = page_of(work)
    for shown in ("What each source adds", "segment 0.0811 0.0822", "personal 0.0711 0.0722", "Source item_knn"):
        assert shown in page.text
    assert "45.6 % of the truth is among 321 candidates" in page.text


def test_validation_is_drawn_for_the_phase_that_chose_the_epochs() -> None:
    plots = curve_plots("m", CURVES["retrieval_model"], ["ranker_1", "final"])
    assert [title for title, _ in plots] == [
        "Training loss, lower is better",
        "Validation NDCG@100, new items, higher is better",
    ]
    assert "0.0622" in plots[1][1]
    assert "0.9000" not in plots[1][1]
    (_, (title, svg)) = curve_plots("r", CURVES["ranker"])
    assert title == "Validation log loss, lower is better"
    assert "0.2345" in svg
    assert curve_plots("m", CURVES["retrieval_model"], ["ranker_1", "final"]) == plots


def test_hostile_phase_names_are_text_in_the_plots() -> None:
    curves = {
        "metric": "x",
        "curves": {"<b>$^$": [{"epoch": 1, "loss": 1.0}], "_y": [{"epoch": 1, "loss": 2.0}]},
    }
    ((_, svg),) = curve_plots("m", curves)
    assert "<b>" not in svg
    assert "&lt;b&gt;$^$" in svg
    assert curve_plots("m", {}) == []
    assert curve_plots("m", {"metric": "x", "curves": {"a": []}}) == []


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("own:1:0", "had it once, on the same day"),
        ("own:2:1", "had it twice, last 1 day ago"),
        ("own:1200:9", "had it 1,200 times, last 9 days ago"),
        ("taste", "new, fits the taste"),
        ("taste:a:1", "new, goes with a:1"),
        ("content", "new, is like what the user had"),
        ("content:7", "new, is like 7"),
        ("segment:age=25-34, country=DE", "popular with people like this: age 25-34, country DE"),
        ("popular:1", "popular: 1 event in the recent window"),
        ("own:x:1", "own:x:1"),
        ("own:1", "own:1"),
        ("", ""),
    ],
)
def test_reasons(code: str, sentence: str) -> None:
    assert words.reason(code) == sentence


def test_the_item_that_a_reason_names_is_told_by_its_label() -> None:
    assert words.named_by("taste:a:1") == "a:1"
    assert words.named_by("own:1:2") == words.named_by("taste") == ""
    assert words.reason("taste:a:1", like="Tea") == "new, goes with Tea"
    assert words.named_by("content:b:1") == "b:1"
    assert words.reason("content:b:1", like="Tea") == "new, is like Tea"


def test_shares_never_claim_all_or_nothing() -> None:
    assert [words.share(value) for value in (0.0, 0.0001, 0.5, 0.9999, 1.0)] == [
        "0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %",
    ]  # fmt: skip
