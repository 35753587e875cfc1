"""Rows of one small night: three users, four items, hostile names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recsys_spark.stage import Work

WorkFactory = Callable[..., Work]

DT = "2024-03-10"
NOON = 1_710_072_000  # 2024-03-10 12:00 UTC
DAY = 86_400
SCRIPT = "<script>alert('x')</script> & Söhne"
ESCAPES = "red \x1b[31malert \u202egnirts"

MODELS = [
    "popularity",
    "recent_popularity",
    "repeat",
    "repeat_decayed",
    "item_knn",
    "retrieval",
    "ranker",
    "ranker_plain",
]
METRICS = ["ndcg", "recall", "precision", "hit_rate", "map", "mrr", "coverage", "intra_list_distance", "gini"]

ROWS: dict[str, list[tuple[Any, ...]]] = {
    "ledger": [
        ("interactions", "a.parquet", "read", 1_010),
        ("interactions", "a.parquet", "kept", 1_000),
        ("interactions", "a.parquet", "duplicate", 3),
        ("interactions", "a.parquet", "null_key", 7),
        ("interactions", "b.parquet", "read", 234),
        ("interactions", "b.parquet", "kept", 234),
        ("items", "<items>.parquet", "read", 4),
        ("items", "<items>.parquet", "kept", 4),
    ],
    "quarantine": [("interactions", "a.parquet", "null_key", 5, None, '{"user": null, "item": "<b>"}')],
    "user_ids": [(2, "ann", 0), (3, "bob<i>", 1), (4, "cold", 0)],
    "item_ids": [(2, "i1"), (3, "i2"), (4, "i3"), (5, "i4")],
    "histories": [
        (0, 2, [2, 3, 2, 2], [NOON - 9 * DAY, NOON - 5 * DAY, NOON - 4 * DAY, NOON - 3 * DAY], [1.0] * 4),
        (1, 3, [4], [NOON - DAY], [1.0]),
        (0, 4, [], [], []),
    ],
    "top_n": [
        ("ann", 1, "i1", 3.0, "personal", "own:3:3", "r", "k"),
        ("ann", 2, "i4", 2.0, "personal", "taste", "r", "k"),
        ("bob<i>", 1, "i3", 3.0, "personal", "own:1:1", "r", "k"),
        ("bob<i>", 2, "i2", 2.0, "personal", "taste", "r", "k"),
        ("cold", 1, "i1", 1.0, "popular", "popular:1234", "r", "k"),
        ("cold", 2, "i2", 0.5, "popular", "<b>odd", "r", "k"),
    ],
    "item_stats": [
        ("final", 2, 9, 6, 3, 3, 1, 1, 1, 1, NOON),
        ("final", 3, 5, 3, 2, 2, 1, 1, 1, 1, NOON),
        ("final", 4, 4, 1, 1, 1, 1, 1, 1, 1, NOON),
        ("test", 5, 999, 999, 9, 9, 9, 9, 9, 9, NOON),
    ],
    "profiles": [
        ("interactions", DT, "", "rows", "", 450.0),
        ("interactions", "2024-03-09", "", "rows", "", 900.0),
        ("interactions", DT, "user_id", "distinct", "", 40.0),
        ("items", DT, "", "rows", "", 4.0),
    ],
    "user_metrics": [
        (model, user, 3 * user, 10, value + 0.01 * (user % 7), value / 2 if user % 2 else None)
        for model, value in (("tonight", 0.4), ("champion", 0.3), ("popularity", 0.2), ("repeat", 0.25))
        for user in range(2, 42)
    ],
    "gate": [
        ("champion", "all", 10, 40, 0.43, 0.33, 0.09, 0.11, "ok", "better than the champion"),
        ("champion", "new <users>", 10, 9, 0.2, 0.4, -0.3, -0.1, "hold", f"worse in a slice {SCRIPT}"),
        ("popularity", "all", 10, 40, 0.43, 0.23, 0.19, 0.21, "ok", "better than the most popular"),
    ],
    "checks": [
        ("volume", "interactions", "", "alarm", 0.5, 0.6, "450 rows, 50% of the usual 900"),
        ("new_values", "items", "attribute_<b>", "hold", 0.3, 0.05, f"most of all '{SCRIPT}'"),
        ("freshness", "interactions", "event_time", "ok", 1.0, 24.0, "the newest event is 1.0 hours older"),
    ],
    "metrics": [
        (
            model,
            "test",
            part,
            metric,
            k,
            round(0.05 + 0.0711 * m + 0.0083 * j + 0.0007 * k + 0.0001 * s, 4),
            50 + s,
        )
        for m, model in enumerate(MODELS)
        for s, part in enumerate(("all", "new"))
        for j, metric in enumerate(METRICS)
        for k in (5, 10)
    ]
    + [("ranker", "test", "all", "auc", 0, 0.8765, 50), ("ranker", "test", "all", "logloss", 0, 0.1234, 50)],
}
FEATURES = {
    "user_features": [(2, "Ann, 45-54"), (3, SCRIPT), (4, "cold")],
    "item_features": [(2, SCRIPT), (3, ESCAPES), (4, None), (5, "Tea & Co")],
}
CURVES = {
    "retrieval_model": {
        "metric": "ndcg100_new",
        "curves": {
            "final": [{"epoch": 1.0, "loss": 2.0, "ndcg100_new": 0.9}],
            "ranker_1": [
                {"epoch": 1.0, "loss": 3.0, "ndcg100_new": 0.0511},
                {"epoch": 2.0, "loss": 2.5, "ndcg100_new": 0.0622},
            ],
        },
    },
    "ranker": {
        "metric": "minus_logloss",
        "curves": {"train": [{"epoch": 1.0, "loss": 0.3, "minus_logloss": -0.2345}]},
    },
}
