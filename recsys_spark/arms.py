"""Who is in which arm of an online test: by the name of the test and the user's id alone, the same every night.

The first 32 bits of SHA-256 of ``<name>:<user id>`` as a number, below ``share`` of 2^32: arm b. That is independent of
the user buckets, and of other tests; in SQL it is

    CASE WHEN conv(substring(sha2(concat('<name>:', user_id), 256), 1, 8), 16, 10) < <share> * 4294967296
         THEN 'b' ELSE 'a' END
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pyspark.sql import Column

A, B = "a", "b"
ARM = "arm"
_DIGITS = 8  # hexadecimal
_ALL = 2**32


def in_arm_b(user_ids: Iterable[str], name: str, share: float) -> NDArray[np.bool_]:
    """Whether each user is in arm b."""
    prefix = hashlib.sha256(f"{name}:".encode())
    numbers = []
    for user_id in user_ids:
        digest = prefix.copy()
        digest.update(user_id.encode())
        numbers.append(int.from_bytes(digest.digest()[: _DIGITS // 2], "big"))
    found: NDArray[np.bool_] = np.array(numbers, np.int64) < _bound(share)
    return found


def arm_of(user_id: Column, name: str, share: float) -> Column:
    """The arm of each user as Spark sees it."""
    from pyspark.sql import functions as F

    digits = F.substring(F.sha2(F.concat(F.lit(f"{name}:"), user_id), 256), 1, _DIGITS)
    number = F.conv(digits, 16, 10).cast("bigint")
    return F.when(number < F.lit(_bound(share)), F.lit(B)).otherwise(F.lit(A))


def _bound(share: float) -> int:
    return round(share * _ALL)
