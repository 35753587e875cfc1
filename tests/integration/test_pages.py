"""The night's page and the index of nights, in a real browser, as wide as a phone and as a desk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from harness import PROJECT, Night, execute

from recsys_spark.reporting.index import INDEX
from recsys_spark.reporting.report import INDEX_LINK
from recsys_spark.tables import TableStore

pytestmark = pytest.mark.integration

PYTHON = PROJECT / ".venv-browser" / "bin" / "python"
PICTURES = PROJECT / "build" / "pages"
WIDTHS = [360, 1280]
SECTIONS = {
    "report": ["checks", "gate", "in", "figures", "training", "popularity", "lists", "run"],
    "index": ["trends", "nights"],
}

if not PYTHON.exists():
    pytest.skip("no .venv-browser here: 'make setup-browser' makes it (230 MB)", allow_module_level=True)


@pytest.fixture(scope="module")
def seen(local_root: Night) -> list[dict[str, Any]]:
    """What the browser saw of each page at each width."""
    store = TableStore(str(local_root.root))
    report = store.need("report", local_root.dt)
    pages = {"report": f"{report.folder}/report.html", "index": INDEX}
    return look({name: str(local_root.root / path) for name, path in pages.items()})


def look(pages: dict[str, str]) -> list[dict[str, Any]]:
    job = {"pages": pages, "widths": WIDTHS, "out": str(PICTURES)}
    done = execute([PYTHON, Path(__file__).parent / "browser.py", json.dumps(job)], timeout=120)
    if done.code in (127, -6) and "cannot open shared object" in done.err:
        pytest.skip(f"the browser does not start here: {done.err.splitlines()[-1]}")
    assert done.code == 0, done
    facts: list[dict[str, Any]] = json.loads(done.out.strip().splitlines()[-1])
    return facts


@pytest.fixture(params=[f"{page}-{width}" for page in SECTIONS for width in WIDTHS])
def page(request: pytest.FixtureRequest, seen: list[dict[str, Any]]) -> dict[str, Any]:
    name, _, width = request.param.partition("-")
    return next(each for each in seen if each["page"] == name and each["width"] == int(width))


def test_the_page_is_whole_and_needs_nothing_beside_itself(page: dict[str, Any]) -> None:
    assert page["loaded"]
    assert page["console"] == []
    assert len(page["requests"]) == 1, "the page alone"
    assert page["requests"][0].startswith("file:")
    assert page["sections"] == SECTIONS[page["page"]]
    assert page["empty"] == page["twice"] == page["anchors"] == []
    assert all(page["images"])


def test_nothing_is_beyond_the_edge(page: dict[str, Any]) -> None:
    assert page["inner"] == page["width"]
    assert page["scroll"] <= page["inner"]
    assert page["wide"] == []


def test_everybody_can_read_it(page: dict[str, Any]) -> None:
    ratio, text = page["contrast"]
    assert ratio >= 4.5, text  # WCAG 2.1, level AA
    assert page["drawings"] >= 5
    assert page["nameless"] == 0
    assert page["least_text"] >= 8
    assert page["cut"] == []


def test_a_page_leads_to_the_index_and_back(local_root: Night) -> None:
    store = TableStore(str(local_root.root))
    folder = local_root.root / store.need("report", local_root.dt).folder
    assert (folder / INDEX_LINK).resolve() == (local_root.root / INDEX).resolve()
    assert f"../{store.need('report', local_root.dt).folder}/report.html" in (local_root.root / INDEX).read_text()


def test_pictures_are_kept(seen: list[dict[str, Any]]) -> None:
    pictures = [Path(each) for page in seen for each in page["pictures"]]
    assert len(pictures) >= len(seen)
    assert all(os.path.getsize(each) > 5_000 for each in pictures)
