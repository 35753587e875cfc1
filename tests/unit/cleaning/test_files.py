"""Where files are and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recsys_spark.cleaning.files import list_files
from recsys_spark.config import DeletedUsersInput
from recsys_spark.errors import RecsysError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.parametrize("path", ["../.hidden/log", "file:{root}//.hidden/log", "{root}/work/../.hidden/log/"])
def test_names_are_below_the_folder_however_it_is_written(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for name in ("a.csv", "day=1/b.csv", "_SUCCESS", ".part/c.csv"):
        file = tmp_path / ".hidden/log" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("id\nu1\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    given = f"{tmp_path}/.hidden/log" if path.startswith("..") else path.format(root=tmp_path)
    files = list_files(spark, DeletedUsersInput(path=given, id="id", format="csv"), "input.deleted_users")
    assert [each.name for each in files] == ["a.csv", "day=1/b.csv"]
    assert all(Path(each.url.removeprefix("file:")).stat().st_size == each.size for each in files)


def test_a_folder_that_may_not_be_read_is_told(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    with pytest.raises(RecsysError, match="cannot be listed"):
        list_files(spark, DeletedUsersInput(path=f"{tmp_path}/log", id="id", format="csv"), "input.deleted_users")
