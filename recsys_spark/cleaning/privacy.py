"""User ids as keyed hashes, and users who asked to be forgotten."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning.files import list_files, probe
from recsys_spark.cleaning.id_lists import list_id
from recsys_spark.cleaning.source import FILE, Opened, open_groups, quoted, require, union
from recsys_spark.config import DeletedUsersInput, Privacy, Settings
from recsys_spark.errors import RecsysError
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column, DataFrame, SparkSession

LEAST_KEY_BYTES = 16
USER_HASH = "user_hash"


def read_key(privacy: Privacy) -> bytes | None:
    """Key of the hash, or None where ids stay as they are.

    Raises
    ------
    RecsysError
        The file or variable is missing, or the key is too short. The message never holds the key.
    """
    if privacy.user_key_file:
        try:
            key = Path(privacy.user_key_file).read_bytes().strip()
        except OSError as error:
            raise RecsysError(
                f"cannot read the key ({error.strerror})", privacy.user_key_file, "Check privacy.user_key_file."
            ) from error
    elif privacy.user_key_variable:
        if privacy.user_key_variable not in os.environ:
            raise RecsysError("the variable is not set", privacy.user_key_variable, "Check privacy.user_key_variable.")
        key = os.environ[privacy.user_key_variable].strip().encode()
    else:
        return None
    if len(key) < LEAST_KEY_BYTES:
        raise RecsysError(
            f"the key has {len(key)} bytes, which can be guessed",
            privacy.user_key_file or privacy.user_key_variable or "",
            f"Use {LEAST_KEY_BYTES} random bytes or more, such as from 'openssl rand -hex 32'.",
        )
    return key


def key_check(key: bytes | None) -> str:
    """What tells two keys apart without telling either."""
    return hash_id("recsys_spark key check", key)[:16] if key else ""


def hash_id(user_id: str, key: bytes) -> str:
    """HMAC-SHA-256 of an id (RFC 2104), as 64 hexadecimal digits."""
    return hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()


def hashed(column: Column, key: bytes | None) -> Column:
    """Column of ids with the keyed hash in their place; the key travels inside the function, never in a plan or log."""
    if key is None:
        return column
    from pyspark.sql import functions as F

    # the kind is given, since Spark cannot read type hints that are text
    return F.pandas_udf(_hasher(key), "string", F.PandasUDFType.SCALAR)(column)


def masked(group: Opened, user_id: str, key: bytes) -> dict[str, Column]:
    """Columns of raw rows that hold the user's id, or a structure with it, with the keyed hash in their place."""
    names = {user_id, user_id.split(".")[0]} & set(group.names)
    return {name: hashed(quoted(name).cast("string"), key) for name in sorted(names)}


def deleted_users(spark: SparkSession, settings: Settings) -> DataFrame | None:
    """Distinct ids (``user_id``) of users who asked to be forgotten, as the log writes them; None without a list.

    Raises
    ------
    RecsysError
        The list, or a part or row of it, cannot be read: not all would be forgotten.
    """
    source = settings.input.deleted_users
    if source is None:
        return None
    files = probe(list_files(spark, source, "input.deleted_users"), source)
    for each in files:
        if each.broken:
            raise RecsysError(f"the list cannot be read ({each.broken})", each.url, "Bring it again: it must be whole.")
    groups = open_groups(spark, source, files, [source.id])
    ids = union([_listed(group, source) for group in groups])
    unread = ids.where(f"{c.USER_ID} is null").groupBy(FILE).count().orderBy(FILE).collect()
    if unread:
        raise RecsysError(
            f"{unread[0]['count']:,} rows of the list hold no id that can be read",
            files[unread[0][FILE]].url,
            "Mend or take out these rows: nobody on the list may be passed over.",
        )
    return ids.select(c.USER_ID).distinct()


def as_table(deleted: DataFrame | None, spark: SparkSession, key: bytes | None) -> DataFrame:
    """Rows of the table ``deleted_users``: SHA-256 of the ids that the other tables would hold."""
    from pyspark.sql import functions as F

    if deleted is None:
        return small_frame(spark, [], f"{USER_HASH} string").coalesce(1)
    return deleted.select(F.sha2(hashed(F.col(c.USER_ID), key), 256).alias(USER_HASH)).coalesce(1)


def _listed(group: Opened, source: DeletedUsersInput) -> DataFrame:
    """Ids of one part of the list, null where a row has none: each part must have them, so that none is passed over."""
    require([group], {"id": source.id}, "input.deleted_users", source.path)
    hint = ", or set input.deleted_users.id"
    return group.rows.select(FILE, list_id(group, source.id, source.format, source.path, hint).alias(c.USER_ID))


def _hasher(key: bytes) -> Callable[[pd.Series], pd.Series]:
    def hash_all(ids: pd.Series) -> pd.Series:
        known = {each: hash_id(each, key) for each in ids.unique() if each is not None}
        return ids.map(known)

    return hash_all
