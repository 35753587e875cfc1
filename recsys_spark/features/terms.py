"""Values of an attribute as text: one, several, or the words of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark.config import Feature

if TYPE_CHECKING:
    from pyspark.sql import Column

WORD = r"([\p{L}\p{M}\p{N}]+)"  # letters, their marks and digits of any script


def terms(feature: Feature) -> Column:
    """Values of an entity, as an array of text without blanks; empty where there is none."""
    from pyspark.sql import functions as F

    text = raw_text(feature)
    if feature.kind == "text":
        return _grams(F.lower(F.coalesce(text, F.lit(""))), feature.ngrams)
    values = F.split(text, feature.separator) if feature.kind == "list" else F.array(text)
    # F.trim itself would take the value's position as the signs to trim
    trimmed = F.transform(F.coalesce(values, F.array().cast("array<string>")), lambda value: F.trim(value))
    return F.filter(trimmed, lambda value: value.isNotNull() & (value != ""))


def first_term(feature: Feature) -> Column:
    """The value of a category, or null."""
    from pyspark.sql import functions as F

    return F.get(terms(feature), F.lit(0))


def raw_text(feature: Feature) -> Column:
    """Text of the input column, or the part of it that the feature extracts."""
    from pyspark.sql import functions as F

    text = F.col(f"attribute_{feature.source}")
    return F.regexp_extract(text, feature.extract, 1) if feature.extract else text


def hashed(value: Column, buckets: int) -> Column:
    """Bucket 0 … buckets-1 of a text: XXH64 of its UTF-8 bytes, the same for ever."""
    from pyspark.sql import functions as F

    return F.pmod(F.xxhash64(value), F.lit(buckets)).cast("int")


def _grams(text: Column, longest: int) -> Column:
    """Words of a text in their order, then pairs of neighbours, and so on."""
    from pyspark.sql import functions as F

    words = F.regexp_extract_all(text, F.lit(WORD), F.lit(1))
    grams = words
    found = [words]
    for length in range(2, longest + 1):
        following = F.slice(words, length, F.size(words))
        # the shorter side is filled up with nulls, which make a null of the pair
        pairs = F.zip_with(grams, following, lambda before, word: F.concat(before, F.lit(" "), word))
        grams = F.filter(pairs, lambda gram: gram.isNotNull())
        found.append(grams)
    return F.concat(*found)
