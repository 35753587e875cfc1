"""The package as one zip, as ``spark-submit --py-files`` ships it (it takes no wheels)."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date a zip can hold: the same source gives the same bytes
SHIPPED = {".py", ".typed", ".html", ".yaml", ".j2", ".css", ".so"}


def write_pyfiles(package: Path, target: Path) -> int:
    """Zip a package's source and templates; returns the number of files.

    Parameters
    ----------
    package : Path
        The package's folder, which becomes the zip's top level.
    target : Path
        The zip; replaced in one step.
    """
    files = sorted(path for path in package.rglob("*") if path.is_file() and path.suffix in SHIPPED)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with zipfile.ZipFile(temporary, "w") as archive:
        for path in files:
            entry = zipfile.ZipInfo(str(path.relative_to(package.parent)), EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    temporary.replace(target)
    return len(files)
