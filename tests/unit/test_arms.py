"""Who is in which arm of a test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import ValidationError

from recsys_spark import arms
from recsys_spark.arms import arm_of, in_arm_b
from recsys_spark.config import Settings
from recsys_spark.config.experiment import Experiment
from recsys_spark.errors import RecsysError
from recsys_spark.features.ids import bucket_of
from recsys_spark.scoring.ways import Arm

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

USERS = [*(f"u{number}" for number in range(20_000)), "", "Ä 🧀", "../x", "'", "a:b"]


def test_arms_are_the_same_for_ever() -> None:
    """Another answer here would move users of a running test."""
    assert "".join("ab"[int(each)] for each in in_arm_b(USERS[:16], "winter", 0.5)) == GOLDEN


def test_a_larger_share_moves_nobody_back() -> None:
    before = np.zeros(len(USERS), bool)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        now = in_arm_b(USERS, "winter", share)
        assert not (before & ~now).any()
        assert now.mean() == pytest.approx(share, abs=0.015)
        before = now


def test_tests_are_independent_of_each_other_and_of_the_buckets(spark: SparkSession) -> None:
    one, two = (in_arm_b(USERS, name, 0.5) for name in ("winter", "spring"))
    assert (one & two).mean() == pytest.approx(0.25, abs=0.015)
    frame = spark.createDataFrame([(user,) for user in USERS[:20_000]], "user_id string")
    buckets = np.array([row[0] for row in frame.select(bucket_of("user_id", 8)).collect()])
    shares = [one[:20_000][buckets == bucket].mean() for bucket in range(8)]
    assert shares == pytest.approx([0.5] * 8, abs=0.05)


def test_spark_and_the_documented_sql_agree_with_it(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(user,) for user in USERS], "user_id string")
    sql = re.search(r"CASE WHEN.*END", arms.__doc__ or "", re.DOTALL)
    assert sql is not None
    text = sql[0].replace("<name>", "winter").replace("<share>", "0.3")
    rows = frame.selectExpr("user_id", f"{text} AS sql").withColumn("arm", arm_of(frame["user_id"], "winter", 0.3))
    found = rows.collect()
    wanted = {user: "ab"[int(each)] for user, each in zip(USERS, in_arm_b(USERS, "winter", 0.3), strict=True)}
    assert all(row["arm"] == row["sql"] == wanted[row["user_id"]] for row in found)


def test_the_two_arms_share_out_the_users() -> None:
    a, b = (Arm(name, "winter", 0.2).holds(USERS) for name in ("a", "b"))
    assert (a ^ b).all()
    assert Arm("a", "winter", 0.2).holds([]).shape == (0,)


def test_settings_that_are_no_test(tiny_settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="two ways"):
        Experiment(name="t", a="tonight")
    with pytest.raises(RecsysError, match=r"gate\.enabled"):
        tiny_settings(tmp_path, experiment={"name": "t"}, gate={"enabled": False})
    with pytest.raises(RecsysError, match="same lists"):
        tiny_settings(tmp_path, experiment={"name": "t", "a": "retrieval"}, score={"by": "retrieval"})
    assert tiny_settings(tmp_path, experiment={"name": "t", "a": "retrieval"}, gate={"enabled": False})


GOLDEN = "bbbabbbbabababbb"
