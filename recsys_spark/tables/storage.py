"""Small files on any file system that the root may live on: read, write in one step, list, delete.

Data goes through Spark, Petastorm or Arrow; this port is for manifests, pointers, locks and model files.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pyarrow import fs

from recsys_spark.errors import RecsysError


class Storage:
    """Access to one root folder by relative paths.

    Parameters
    ----------
    root : str
        A local path, or a URI of scheme file, hdfs, s3 or s3a. As in Hadoop, a URI is taken as it stands: a blank is a
        blank, and %20 are three characters.
    """

    def __init__(self, root: str) -> None:
        if re.search(r"[*?\[\]{}]", root):
            raise RecsysError(
                f"{root!r} holds one of * ? [ ] {{ }}", "setting 'root'", "Spark reads these as patterns."
            )
        if root.startswith("file:") or "://" not in root:
            plain = re.sub("^file:(//(localhost)?(?=/))?", "", root)
            self.base = str(Path(plain if plain != root else Path(root).expanduser()).absolute())
            self.uri, self.fs, self.is_local = f"file://{self.base}", fs.LocalFileSystem(), True
            return
        self.uri = root.rstrip("/")
        try:
            self.fs, base = fs.FileSystem.from_uri(self.uri.replace("s3a://", "s3://", 1))
        except (OSError, ValueError) as error:
            raise RecsysError(f"cannot open {root!r} ({error})", "setting 'root'", "Use a path or URI.") from error
        self.base = base.rstrip("/")
        self.is_local = False

    def path(self, relative: str = "") -> str:
        """Path inside the file system."""
        return f"{self.base}/{relative}" if relative else self.base

    def url(self, relative: str) -> str:
        """URI for Spark and Petastorm."""
        return f"{self.uri}/{relative}"

    def relative(self, url: str) -> str:
        """Undoes ``url``."""
        return url.removeprefix(f"{self.uri}/")

    def exists(self, relative: str) -> bool:
        """Tell whether a file or folder is there."""
        return bool(self.fs.get_file_info(self.path(relative)).type != fs.FileType.NotFound)

    def names(self, relative: str, kind: str = "any") -> list[str]:
        """Sorted names in a folder; an absent folder has none."""
        selector = fs.FileSelector(self.path(relative), allow_not_found=True)
        wanted = {"file": [fs.FileType.File], "folder": [fs.FileType.Directory]}.get(kind)
        infos = self.fs.get_file_info(selector)
        return sorted(info.base_name for info in infos if wanted is None or info.type in wanted)

    def files(self, relative: str) -> list[tuple[str, int]]:
        """All files below a folder with their sizes; names beginning with _ or . are left out."""
        selector = fs.FileSelector(self.path(relative), recursive=True, allow_not_found=True)
        start = len(self.path(relative)) + 1
        found = [
            (info.path[start:], info.size) for info in self.fs.get_file_info(selector) if info.type == fs.FileType.File
        ]
        return sorted(each for each in found if not any(p.startswith(("_", ".")) for p in each[0].split("/")))

    def make_folder(self, relative: str) -> None:
        """Make a folder and its parents."""
        self.fs.create_dir(self.path(relative), recursive=True)

    def delete_folder(self, relative: str) -> None:
        """Delete a folder with all in it; an absent one is fine."""
        if self.exists(relative):
            self.fs.delete_dir(self.path(relative))

    def read_bytes(self, relative: str) -> bytes:
        """Whole content of a file."""
        with self.fs.open_input_stream(self.path(relative)) as stream:
            return bytes(stream.read())

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Replace a file in one step: a reader sees the old content or the new, never a part."""
        with self.writing(relative) as stream:
            stream.write(content)

    @contextmanager
    def writing(self, relative: str) -> Iterator[BinaryIO]:
        """Stream into a file that readers see when the block has ended well, and that is on the disk by then."""
        target = self.path(relative)
        if self.is_local:
            _make_local_folder(os.path.dirname(target))
            with _replacing_local(target) as local:
                yield local
            return
        self.fs.create_dir(os.path.dirname(target), recursive=True)
        with self.fs.open_output_stream(target) as stream:  # object stores show a file when it is complete
            yield stream

    def create_bytes(self, relative: str, content: bytes) -> bool:
        """Make a file only where none is; tell whether this call made it."""
        target = self.path(relative)
        self.fs.create_dir(os.path.dirname(target), recursive=True)
        if not self.is_local:
            if self.exists(relative):
                return False
            self.write_bytes(relative, content)
            return True
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        try:
            Path(temporary).write_bytes(content)
            os.link(temporary, target)  # fails when the name is taken, and shows the whole content at once
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink(missing_ok=True)
        return True

    @contextmanager
    def exclusive(self, relative: str) -> Iterator[None]:
        """Let no other process of a local root into a block of this name; the kernel frees it when its owner dies.

        Elsewhere there is no such thing: what is read and then written there may meet another writer's in between.
        """
        if not self.is_local:
            yield
            return
        _make_local_folder(os.path.dirname(self.path(relative)))
        with open(self.path(relative), "ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX)  # of this open file: also between threads
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                    raise  # else a network file system without locks
            yield

    def delete_file(self, relative: str) -> None:
        """Delete a file; an absent one is fine, also one that another process was faster to delete."""
        if self.exists(relative):
            with suppress(FileNotFoundError):
                self.fs.delete_file(self.path(relative))

    def read_json(self, relative: str) -> Any:
        """Content of a JSON file.

        Raises
        ------
        RecsysError
            The file is torn or no JSON.
        """
        try:
            return json.loads(self.read_bytes(relative))
        except ValueError as error:
            raise RecsysError("not readable as JSON", self.url(relative), "Delete it and run again.") from error

    def write_json(self, relative: str, value: Any) -> None:
        """Write a JSON file in one step."""
        self.write_bytes(relative, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


@contextmanager
def _replacing_local(target: str) -> Iterator[BinaryIO]:
    temporary = f"{target}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    _flush_folder(os.path.dirname(target))


def _make_local_folder(folder: str) -> None:
    """Make a folder and its parents, each name on the disk before something is written below it."""
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    _make_local_folder(parent)
    os.makedirs(folder, exist_ok=True)  # another rank may have been faster
    _flush_folder(parent)


def _flush_folder(folder: str) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
