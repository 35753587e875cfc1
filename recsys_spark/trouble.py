"""What ends a night from outside, told in one line: a full or read-only disk, a Java or a Python worker that is gone.

Spark and the system report these as whatever call failed first, deep in a trace of Java. A person who is called at
night needs the cause; whatever is not known here keeps its trace, since it may be a fault of the code.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from recsys_spark.errors import RecsysError

_CAUSES = (  # error numbers, words in the message, what it is, what to do
    ((errno.ENOSPC,), ("No space left on device",), "the disk is full", "Make room and run again."),
    ((errno.EDQUOT,), ("Disk quota exceeded",), "the quota of the disk is used up", "Make room and run again."),
    ((errno.EROFS,), ("Read-only file system",), "the file system is read-only", "Mount it for writing, or choose "
     "another root."),
    ((errno.EACCES, errno.EPERM), ("Permission denied",), "permission is denied", "Mend the permissions of what "
     "is named, or choose another root."),
    ((), ("Python worker exited unexpectedly", "Python worker process terminated"), "a Python worker of Spark was lost",
     "It may have been killed for its memory: see spark.master (fewer tasks at once), then run again."),
    ((), ("CUDA out of memory",), "the GPU has no memory left", "Share it among fewer Spark workers or ranks, or see "
     "launch.scoring_device and batch_size."),
)  # fmt: skip


@contextmanager
def explaining(where: str) -> Iterator[None]:
    """Turn what is known here into a RecsysError, also where an error of tidying up hides it.

    Parameters
    ----------
    where : str
        Root or file that the work is about.
    """
    try:
        yield
    except RecsysError:
        raise
    except Exception as error:
        told = explain(error, where)
        if told is None:
            raise
        raise told from error


def explain(error: BaseException, where: str) -> RecsysError | None:
    """Cause of an error in one line, or None where it is not of a known kind."""
    chain = _chain(error)
    for each in chain:
        if isinstance(each, RecsysError):
            return each
    for each in chain:
        number, text = getattr(each, "errno", None), _text(each)
        if (told := _of_a_worker(text)) is not None:
            return told
        for numbers, words, found, do in _CAUSES:
            if number in numbers or any(word in text for word in words):
                line = next((line for line in text.splitlines() if any(word in line for word in words)), text)
                return RecsysError(f"{found} ({' '.join(line.split())[:300]})", where, do)
    if any(type(each).__name__ == "Py4JNetworkError" or _is_from_py4j(each) for each in chain):
        do = "It may have been killed for its memory: see spark.driver_memory. Run again."
        return RecsysError("the Java of the Spark session has ended", where, do)
    return None


def _of_a_worker(text: str) -> RecsysError | None:
    """The RecsysError of a Python worker, out of the trace that Spark gives in its place."""
    line = re.search(rf"^{re.escape(RecsysError.__module__)}\.\w+: (.+)$", text, re.MULTILINE)
    if line is None:
        return None
    where, _, rest = line[1].partition(": ")
    found, _, do = rest.partition(". ")
    return RecsysError(found, where, do)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it came from, the newest first."""
    found: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in found:
        found.append(each)
        each = each.__cause__ or each.__context__
    return found


def _is_from_py4j(error: BaseException) -> bool:
    """Tell whether a connection that failed was the one to Java."""
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(error.__traceback__)]
    return isinstance(error, ConnectionError) and any(name.startswith("py4j") for name in modules)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # py4j asks Java for the message
        return type(error).__name__
