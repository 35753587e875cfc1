"""What the set-up says of a browser that does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys_spark.bootstrap.browser import cannot_start, missing_library
from recsys_spark.bootstrap.main import parse


def python(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_browser_that_starts(tmp_path: Path) -> None:
    assert cannot_start(python(tmp_path, '[ "$QT_QPA_PLATFORM" = offscreen ]'), {}) == ""


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    script = "echo 'ImportError: libnss3.so.1: cannot open shared object file: No such file or directory' >&2; exit 1"
    says = cannot_start(python(tmp_path, script), {})
    assert "needs the system's 'libnss3.so.1'" in says
    assert "apt-get install" in says
    assert "\n" not in says


@pytest.mark.parametrize(("text", "says"), [("a\nImportError: odd\n", "ImportError: odd"), ("", "no reason was given")])
def test_another_reason(text: str, says: str) -> None:
    assert missing_library(text) == f"the browser does not load: {says}"


def test_the_command_line_has_it() -> None:
    assert parse(["--browser"]).browser
    assert not parse([]).browser
