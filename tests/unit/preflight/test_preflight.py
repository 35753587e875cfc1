"""What a preflight says of processes that are alike, and of those that are not."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recsys_spark
from recsys_spark.bootstrap.pyfiles import write_pyfiles
from recsys_spark.config import Launch
from recsys_spark.errors import RecsysError
from recsys_spark.preflight import probe as probing
from recsys_spark.preflight.check import (
    Answer,
    as_text,
    ask_host,
    clock_offset,
    hosts_of,
    problems,
    refuse_unlike,
)


@pytest.fixture
def driver(tmp_path: Path) -> Answer:
    return Answer("driver", probing.probe(str(tmp_path / "root")))


def beside(driver: Answer, place: str, **changes: Any) -> Answer:
    return Answer("executor", {**driver.facts, "place": place, **changes})


def test_a_process_says_what_it_is_and_leaves_nothing(driver: Answer, tmp_path: Path) -> None:
    facts = driver.facts
    assert facts["root"] == ""
    assert facts["cores"] > 0
    assert facts["memory_gib"] > 0
    assert all(facts[name] not in ("", "none") for name in ("python", "pyspark", "pyarrow", "numpy", "code"))
    assert [each for each in (tmp_path / "root").rglob("*") if each.is_file()] == []


def test_a_zip_of_the_package_has_the_hash_of_its_folder(tmp_path: Path) -> None:
    write_pyfiles(Path(recsys_spark.__file__).parent, tmp_path / "package.zip")
    zipped = zipfile.Path(tmp_path / "package.zip", "recsys_spark/")
    sources = dict(probing._sources(zipped, ""))
    assert sources == dict(probing._sources(Path(recsys_spark.__file__).parent, ""))
    assert "spark.py" in sources


def test_processes_that_are_alike_pass(driver: Answer) -> None:
    answers = [driver, beside(driver, "b:/w1"), beside(driver, "c:/w2", cores=64, memory_gib=256.0)]
    assert problems(answers) == []
    refuse_unlike(answers, "root")
    heads, *lines = as_text(answers).splitlines()
    assert heads.split()[:2] == ["process", "python"]
    assert [line.split()[1] for line in lines[1:]] == ["b:/w1", "c:/w2"]


def test_the_one_that_differs_is_named_with_both_values(driver: Answer) -> None:
    answers = [driver, beside(driver, "b:/w1"), beside(driver, "c:/w2", pyarrow="15.0.0", code="abc")]
    with pytest.raises(RecsysError) as error:
        refuse_unlike(answers, "hdfs://root")
    message = str(error.value)
    assert f"executor c:/w2 has pyarrow 15.0.0, the driver {driver.facts['pyarrow']}" in message
    assert f"executor c:/w2 has code abc, the driver {driver.facts['code']}" in message
    assert "b:/w1" not in message


def test_a_root_a_clock_and_a_missing_package_are_problems(driver: Answer) -> None:
    blind = beside(driver, "b:/w1", root="cannot write and read it: denied")
    late = replace(beside(driver, "c:/w2"), offset=61.0)
    empty = Answer("executor", {"place": "d:/w3", "error": "ModuleNotFoundError: No module named 'recsys_spark'"})
    assert problems([driver, blind, late, empty]) == [
        "executor b:/w1: cannot write and read it: denied",
        "executor c:/w2: its clock is 61 s off",
        "executor d:/w3 cannot run the package: ModuleNotFoundError: No module named 'recsys_spark'",
    ]
    assert "ModuleNotFoundError" in as_text([driver, empty])


def test_a_root_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot write and read it" in probing.probe(str(tmp_path / "file" / "root"))["root"]


@pytest.mark.parametrize(("said", "offset"), [(5.0, 0.0), (9.0, 1.0), (12.5, 0.5), (10.0, 0.0)])
def test_a_clock_is_off_by_what_the_question_cannot_explain(said: float, offset: float) -> None:
    before, after = (10.0, 12.0) if said > 5 else (5.0, 5.0)
    assert clock_offset(said, before, after) == pytest.approx(offset)


def test_hosts_are_named_without_their_slots() -> None:
    launch = Launch(launcher="horovodrun", ranks=4, hosts="gpu1:2, gpu2:2")
    assert hosts_of(launch) == ["gpu1", "gpu2"]
    assert hosts_of(Launch(launcher="horovodrun", hosts="gpu1")) == ["gpu1"]


def test_this_host_answers_as_the_driver_does(driver: Answer, tmp_path: Path) -> None:
    answer = ask_host("localhost", str(tmp_path / "root"))
    assert problems([driver, answer]) == []


def test_a_host_that_cannot_be_reached_is_named(driver: Answer, tmp_path: Path) -> None:
    found = problems([driver, ask_host("no-such-host.invalid", str(tmp_path))])
    assert len(found) == 1
    assert "host no-such-host.invalid cannot run the package" in found[0]
