"""Fencing tokens: a number a writer, each higher than all before it.

A lock can be lost without its owner's knowing: the machine slept, the network was away. What a reader sees is moved by
pointers, and a pointer refuses whoever has a lower token than the one that moved it last, or than the newest writer's.

<root>/_locks/tokens/000000000012   the token 12 was handed out; made once, by whoever could make it
"""

from __future__ import annotations

from recsys_spark.tables.storage import Storage

GUARD = "_locks/guard"
_TOKENS = "_locks/tokens"
_KEPT = 16  # files; a writer that has just read an old list must not make a number again


def next_token(storage: Storage) -> int:
    """Take the next token; no two writers get the same where the file system can make a file only once.

    On object stores without that, two writers that begin in the same moment may: the writer lock is what keeps them
    apart there.
    """
    while True:
        token = newest_token(storage) + 1
        if storage.create_bytes(f"{_TOKENS}/{token:012d}", b"") and newest_token(storage) == token:
            break
    for name in storage.names(_TOKENS, "file"):
        if name.isdigit() and int(name) <= token - _KEPT:
            storage.delete_file(f"{_TOKENS}/{name}")  # another writer tidies up too
    return token


def newest_token(storage: Storage) -> int:
    """Highest token that was handed out; 0 before the first one."""
    return max((int(name) for name in storage.names(_TOKENS, "file") if name.isdigit()), default=0)
