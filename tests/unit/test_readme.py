"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys_spark.config import Settings
from recsys_spark.pipeline import STAGES
from recsys_spark.rules import OUTCOMES, RULES
from recsys_spark.tables import TABLES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_is_described(name: str) -> None:
    spec = TABLES[name]
    columns = spec.schema or ("files" if spec.kind == "files" else "by the settings")
    assert f"| `{name}` | {', '.join(spec.key) or '-'} | {columns} | {spec.holds} |" in README


@pytest.mark.parametrize("rule", [rule for rule in {**OUTCOMES, **RULES} if rule != "kept"])
def test_every_rule_is_described(rule: str) -> None:
    assert f"| `{rule}` |" in README


def test_every_section_of_the_settings_is_described() -> None:
    sections = set(Settings.model_fields) - {"name", "root", "buckets"}
    assert {section for section in sections if f"`{section}`" not in README} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_a_job(stage: str) -> None:
    job = ROOT / "jobs" / f"{stage.replace('-', '_')}.py"
    assert f'job("{stage}")' in job.read_text(encoding="utf-8")
    assert len(job.read_text(encoding="utf-8").splitlines()) < 40
