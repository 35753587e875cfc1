"""Schema, key and purpose of every table. The README's list is made from this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TableSpec:
    """One table.

    Parameters
    ----------
    name : str
        Folder below the root.
    schema : str
        Columns as Spark DDL; empty where the settings decide (features) or the table is a set of files.
    key : tuple of str
        Columns that name a row.
    kind : {"rows", "files"}
        Parquet rows, or files such as model weights.
    holds : str
        One line for the reader.
    optional : tuple of str
        Further columns, in this order, where the settings ask for them.
    """

    name: str
    schema: str
    key: tuple[str, ...]
    holds: str
    kind: Literal["rows", "files"] = "rows"
    optional: tuple[str, ...] = ()


_ALL = [
    TableSpec(
        "interactions",
        "user_id string, item_id string, event_type string, event_time timestamp, value double, weight float, "
        "source_file string",
        ("user_id", "item_id", "event_type", "event_time", "value"),
        "cleaned events, each with the weight of its type and the file that it came from",
        optional=("event_key string", "split string"),
    ),
    TableSpec("items", "", ("item_id",), "cleaned item attributes, and the label a person reads"),
    TableSpec("users", "", ("user_id",), "cleaned user attributes, and the label a person reads"),
    TableSpec(
        "quarantine",
        "source string, source_file string, rule string, row_hash bigint, user_id string, raw string",
        ("source", "source_file", "row_hash"),
        "rows that broke a rule, as JSON, with the rule; user_id where the row has one",
    ),
    TableSpec(
        "ledger",
        "source string, source_file string, rule string, rows bigint",
        ("source", "source_file", "rule"),
        "where each input row went: read, kept, after_date (waits for its night), a kind of duplicate, or the rule of "
        "quarantine; read = the sum of the others",
    ),
    TableSpec(
        "deleted_users",
        "user_hash string",
        ("user_hash",),
        "users who asked to be forgotten, as SHA-256 of their ids: other tables must not hold them",
    ),
    TableSpec(
        "user_ids",
        "index int, user_id string, user_bucket int",
        ("user_id",),
        "id to index, append-only from night to night; 0 is padding, 1 unknown; a file a user bucket",
    ),
    TableSpec("item_ids", "index int, item_id string", ("item_id",), "id to index, as user_ids"),
    TableSpec("user_features", "", ("index",), "codes (0 = none), weights and numbers of the user attributes"),
    TableSpec(
        "item_features", "", ("index",), "codes (0 = none), weights and numbers of the item attributes, and the label"
    ),
    TableSpec(
        "vocabularies",
        "side string, feature string, value string, code int, entities bigint",
        ("side", "feature", "value"),
        "value to code, append-only from night to night; entities = training entities that hold it, 0 = this run "
        "encodes it as unseen; feature_spec's hash_buckets come before the codes",
    ),
    TableSpec("feature_spec", "", (), "what else was fitted: sizes, bounds, scales (spec.json)", kind="files"),
    TableSpec(
        "item_stats",
        "cut string, item_index int, events bigint, recent_events bigint, users bigint, recent_users bigint, "
        "newest_users bigint, earlier_users bigint, repeat_users bigint, first_users bigint, first_time bigint",
        ("cut", "item_index"),
        "popularity of each item before each cut: recent = features.recent_days, newest = a quarter of it, earlier = "
        "the three such windows before, repeat = on more than one day, first = for the first time",
    ),
    TableSpec(
        "item_windows",
        "cut string, days int, item_index int, user_days bigint, users bigint, repeat_users bigint, last_time bigint",
        ("cut", "days", "item_index"),
        "items in each of features.windows before each cut: days of users with it, users, users on more than one day; "
        "last_time = the newest event before the cut",
    ),
    TableSpec(
        "examples",
        "split string, user_bucket int, user_index int, item_index int, time bigint, weight float",
        ("split", "user_index", "item_index"),
        "positive pairs for the retrieval model, a folder a split, files of a group of user buckets each, shuffled",
    ),
    TableSpec(
        "histories",
        "user_bucket int, user_index int, items array<int>, times array<bigint>, weights array<float>",
        ("user_index",),
        "each user's newest events in time order, a file a user bucket; users without events have empty lists",
    ),
    TableSpec(
        "labels",
        "split string, user_index int, item_index int, time bigint, target int",
        ("split", "user_index", "item_index", "time", "target"),
        "events that the log labels, target 1 or 0, split train, valid or test; none where labels.kind is candidates",
    ),
    TableSpec(
        "retrieval_model", "", (), "one snapshot a cut (vectors, or NeuMF's weights), curves (files)", kind="files"
    ),
    TableSpec(
        "user_vectors",
        "index int, vector array<float>",
        ("index",),
        "newest vectors of the users; the last place is 1; no rows with NeuMF",
    ),
    TableSpec(
        "item_vectors",
        "index int, vector array<float>",
        ("index",),
        "newest vectors of the items; the last place is the bias; no rows with NeuMF",
    ),
    TableSpec(
        "item_neighbours",
        "cut string, item_index int, neighbours array<int>, similarities array<float>",
        ("cut", "item_index"),
        "items that the same users had before each cut, with the cosine; none where candidates.sources lacks item_knn",
    ),
    TableSpec(
        "content_model",
        "",
        (),
        "vectors of the items by their attributes, one file a cut, and the network's figures (files); none where "
        "nothing asks for them",
        kind="files",
    ),
    TableSpec(
        "segment_items",
        "cut string, segment string, codes array<int>, rank int, item_index int, events bigint",
        ("cut", "segment", "rank"),
        "most popular items of late in each segment of the users before each cut; none without candidates.segment.by",
    ),
    TableSpec("fusion", "", (), "weights of the learned blend of sources (blend.json); none otherwise", kind="files"),
    TableSpec(
        "ranker_examples",
        "",
        ("split", "user_index", "item_index", "cut"),
        "candidates with pair features and target for the ranker, or the labels given (with time in place of cut), "
        "shuffled, in equal row groups, a folder a split",
    ),
    TableSpec("ranker", "", (), "DeepFM weights (safetensors), its spec, curves (files)", kind="files"),
    TableSpec(
        "metrics",
        "model string, split string, slice string, metric string, k int, value double, users bigint",
        ("model", "split", "slice", "metric", "k"),
        "offline figures and the number of users behind each",
    ),
    TableSpec(
        "item_rules",
        "item_index int, allowed boolean, boost float, pinned int, new boolean, caps array<bigint>",
        ("item_index",),
        "what the rules say of each item: may it be shown, what is added to its score, its pinned rank (0: none), is "
        "it for the places of explore, and for each of rules.caps a hash of its value (0: none)",
    ),
    TableSpec(
        "top_n",
        "user_id string, rank int, item_id string, score float, source string, reason string, "
        "retrieval_version string, ranker_version string",
        ("user_id", "rank"),
        "the published lists; a version is the content hash of the model's run",
        optional=("arm string",),
    ),
    TableSpec(
        "user_metrics",
        "model string, user_index int, events int, k int, ndcg double, tail_ndcg double",
        ("model", "user_index"),
        "NDCG of each evaluated user on the test window, by the lists that would be published (tonight), those of the "
        "champion's model, and plain rules; events = known before it, tail_ndcg = only items outside the head count",
    ),
    TableSpec(
        "gate",
        "rival string, slice string, k int, users bigint, value double, rival_value double, low double, high double, "
        "level string, says string",
        ("rival", "slice", "says"),
        "tonight's model against a rival: mean NDCG of both over the same users, and the interval of the difference",
    ),
    TableSpec(
        "profiles",
        "source string, day string, column string, statistic string, bucket string, value double",
        ("source", "day", "column", "statistic", "bucket"),
        "counts of tonight's tables (of events: of each of the last days): rows, distinct keys, categories, and "
        "numbers in bins that grow by a tenth",
    ),
    TableSpec(
        "checks",
        "name string, source string, column string, level string, value double, limit double, says string",
        ("name", "source", "column", "says"),
        "tonight against the nights before: ok, alarm or hold, with what was found, how far it may go, and a sentence",
    ),
    TableSpec("report", "", (), "the night's page (report.html)", kind="files"),
]

TABLES: dict[str, TableSpec] = {spec.name: spec for spec in _ALL}
