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
    monkeypatch.delattr(zipimport.zipimporter, "stamps", raising=False)
    keep_archives()
    keep_archives()  # once is enough
    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("only_in_the_archive.py", "VALUE = 1\n")
    monkeypatch.syspath_prepend(str(archive))
    try:
        for _ in range(3):
            importlib.invalidate_caches()
        assert importlib.import_module("only_in_the_archive").VALUE == 1
        assert reads.count(str(archive)) <= 1

        with zipfile.ZipFile(archive, "a") as out:
            out.writestr("came_later.py", "VALUE = 2\n")
        before = reads.count(str(archive))
        importlib.invalidate_caches()
        assert importlib.import_module("came_later").VALUE == 2
        assert reads.count(str(archive)) == before + 1

        os.remove(archive)
        importlib.invalidate_caches()  # one that is gone is no error
    finally:
        sys.path_importer_cache.pop(str(archive), None)
        for name in ("only_in_the_archive", "came_later"):
            sys.modules.pop(name, None)
        if hasattr(zipimport.zipimporter, "stamps"):
            del zipimport.zipimporter.stamps
