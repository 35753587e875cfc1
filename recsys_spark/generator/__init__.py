"""Raw interaction logs with known tastes and known faults, made in parallel by Spark.

    from recsys_spark.generator import LogSpec, dirt, generate, oracle_scores, truth_ledger

    spec = LogSpec(rows=50_000, days=10, rates=dirt(1))
    summary = generate(spark, spec, "/tmp/log")       # files, truth and settings.yaml, ready to run
    truth_ledger("/tmp/log", spec.end_date)           # what a night must count, file by file and rule by rule
    oracle_scores("/tmp/log", ["u0000003"], "2026-01-31")   # true probability of each item

It is no stage of the night: nothing imports it but the command and the tests.
"""

from recsys_spark.generator.rates import RATES, dirt
from recsys_spark.generator.spec import LogSpec
from recsys_spark.generator.truth import catalogue, oracle_scores, read_spec, truth_ledger
from recsys_spark.generator.write import Summary, generate

__all__ = [
    "RATES",
    "LogSpec",
    "Summary",
    "catalogue",
    "dirt",
    "generate",
    "oracle_scores",
    "read_spec",
    "truth_ledger",
]
