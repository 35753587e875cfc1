"""The ledger as a person reads it: what came in, what became of it, and an example of what was refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.reporting import words
from recsys_spark.rules import KEPT, OUTCOMES, READ, RULES
from recsys_spark.stage import Work

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

WORST_FILES = 10
RAW_LENGTH = 400


@dataclass(frozen=True)
class Outcome:
    """What became of some rows of a source.

    ``share`` is of the rows read. Rows of later days are not ``bad``: they wait for their night.
    """

    rule: str
    meaning: str
    rows: int
    share: float
    bad: bool
    example: str


@dataclass(frozen=True)
class Source:
    """One input: its files, its rows, and what became of them."""

    name: str
    files: int
    file: str
    read: int
    outcomes: list[Outcome]


@dataclass(frozen=True)
class BadFile:
    """Rows of one file in quarantine."""

    source: str
    file: str
    rows: int
    rules: str


def ledger(work: Work) -> tuple[list[Source], list[BadFile]]:
    """Rows of each source by rule, with one quarantined row a rule; and the files with most such rows."""
    from pyspark.sql import functions as F

    table = work.store.read(work.spark, work.inputs["ledger"])
    counted = table.groupBy(c.SOURCE, c.RULE).agg(
        F.sum(c.ROWS).alias(c.ROWS),
        F.countDistinct(c.SOURCE_FILE).alias("files"),
        F.min(c.SOURCE_FILE).alias(c.SOURCE_FILE),
    )
    rows = counted.collect()
    examples = _quarantined(work)
    sources = []
    for name in sorted({row[c.SOURCE] for row in rows}, key=lambda n: (n != "interactions", n)):
        here = {row[c.RULE]: row for row in rows if row[c.SOURCE] == name}
        read = here[READ][c.ROWS] if READ in here else sum(row[c.ROWS] for row in here.values())
        order = [rule for rule in OUTCOMES if rule in here]
        order += sorted(set(here) - set(OUTCOMES) - {READ})
        outcomes = [
            Outcome(
                rule=rule,
                meaning=OUTCOMES.get(rule, "not described"),
                rows=here[rule][c.ROWS],
                share=here[rule][c.ROWS] / read if read else 0.0,
                bad=rule in RULES and rule != "after_date",
                example=examples.get((name, rule), ""),
            )
            for rule in order
        ]
        first = here.get(READ) or next(iter(here.values()))
        sources.append(Source(words.clean(name), first["files"], words.file_name(first[c.SOURCE_FILE]), read, outcomes))
    return sources, _worst(table)


def _quarantined(work: Work) -> dict[tuple[str, str], str]:
    """One raw row for each source and rule; the same one every time."""
    from pyspark.sql import functions as F

    if "quarantine" not in work.inputs:
        return {}
    rows = (
        work.store.read(work.spark, work.inputs["quarantine"])
        .groupBy(c.SOURCE, c.RULE)
        .agg(F.min(F.struct(F.col("row_hash"), F.substring(c.RAW, 1, RAW_LENGTH + 1).alias(c.RAW))).alias("one"))
        .collect()
    )
    return {(r[c.SOURCE], r[c.RULE]): words.clean(r["one"][c.RAW] or "", RAW_LENGTH) for r in rows}


def _worst(table: DataFrame) -> list[BadFile]:
    from pyspark.sql import functions as F

    text = F.concat_ws(" ", c.RULE, F.format_number(c.ROWS, 0))
    rows = (
        table.where(F.col(c.RULE).isin(list(RULES)))
        .groupBy(c.SOURCE, c.SOURCE_FILE)
        .agg(F.sum(c.ROWS).alias(c.ROWS), F.concat_ws(", ", F.sort_array(F.collect_list(text))).alias("rules"))
        .orderBy(F.desc(c.ROWS), c.SOURCE, c.SOURCE_FILE)
        .limit(WORST_FILES)
        .collect()
    )
    return [BadFile(r[c.SOURCE], words.clean(r[c.SOURCE_FILE]), r[c.ROWS], r["rules"]) for r in rows]


def kept_events(sources: list[Source]) -> int:
    """Events that passed all rules."""
    here = [source for source in sources if source.name == "interactions"]
    return sum(each.rows for source in here for each in source.outcomes if each.rule == KEPT)
