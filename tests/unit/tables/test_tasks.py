from __future__ import annotations

import importlib
import os
import sys
import zipfile
import zipimport
from pathlib import Path

import pytest

from recsys_spark.tables.tasks import keep_archives


def test_an_archive_is_read_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    plain = zipimport.zipimporter.invalidate_caches

    def counted(self: zipimport.zipimporter) -> None:
        reads.append(self.archive)
        plain(self)

    monkeypatch.setattr(zipimport.zipimporter, "invalidate_caches", counted)
    monkeypatch.delattr(zipimport.zipimporter, "is_kept", raising=False)
    keep_archives()
    keep_archives()  # once is enough
    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("only_in_the_archive.py", "VALUE = 1\n")
        out.writestr("of_the_archive/__init__.py", "")
        out.writestr("of_the_archive/first.py", "VALUE = 3\n")
    monkeypatch.syspath_prepend(str(archive))
    try:
        for _ in range(3):
            importlib.invalidate_caches()
        assert importlib.import_module("only_in_the_archive").VALUE == 1
        assert importlib.import_module("of_the_archive.first").VALUE == 3
        importlib.invalidate_caches()
        before = reads.count(str(archive))
        assert before <= 2  # the archive's importer and its package's
        importlib.invalidate_caches()
        assert reads.count(str(archive)) == before

        with zipfile.ZipFile(archive, "a") as out:
            out.writestr("came_later.py", "VALUE = 2\n")
            out.writestr("of_the_archive/second.py", "VALUE = 4\n")
        importlib.invalidate_caches()
        assert importlib.import_module("came_later").VALUE == 2
        assert importlib.import_module("of_the_archive.second").VALUE == 4
        assert reads.count(str(archive)) == before + 2

        with zipfile.ZipFile(archive, "a") as out:
            out.writestr("came_last.py", "VALUE = 5\n")
        os.rename(archive, tmp_path / "away.zip")
        importlib.invalidate_caches()  # one that is gone is no error
        os.rename(tmp_path / "away.zip", archive)
        importlib.invalidate_caches()
        assert importlib.import_module("came_last").VALUE == 5
    finally:
        sys.path_importer_cache.pop(str(archive), None)
        planted = ("only_in_the_archive", "of_the_archive", "came_")
        for name in [name for name in sys.modules if name.startswith(planted)]:
            del sys.modules[name]
        if hasattr(zipimport.zipimporter, "is_kept"):
            del zipimport.zipimporter.is_kept
