"""Two nights' models side by side, over the users that both have ranked."""

from __future__ import annotations

import numpy as np

from recsys_spark.config import Gate
from recsys_spark.errors import RecsysError
from recsys_spark.operating.runs import sealed
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.champion import training_of

TABLE = "user_metrics"


def find_run(store: TableStore, name: str) -> Manifest:
    """Run of ``user_metrics`` by its id, or a day's current one.

    Raises
    ------
    RecsysError
        There is none.
    """
    days = store.days(TABLE)
    if name in days:
        return store.need(TABLE, name)
    for dt in reversed(days):
        for manifest in store.runs(TABLE, dt):
            if manifest.run_id == name:
                return manifest
    hint = f"Days: {', '.join(days) or 'none'}; runs are listed by 'recsys-spark runs --table {TABLE}'."
    raise RecsysError(f"no day and no run '{name}'", store.storage.url(TABLE), hint)


def side_by_side(store: TableStore, one: Manifest, two: Manifest, gate: Gate) -> str:
    """The models that both runs have ranked, each by its mean NDCG, with the interval of the paired difference.

    The nights' test windows differ where their days do: this is the quality as it was measured then.
    """
    from recsys_spark.resampling import intervals  # with scipy, which the other commands do not need

    keys = ["model", "user_index"]
    frames = [read_parquet(store.storage, each.folder).to_pandas()[[*keys, "k", "ndcg"]] for each in (one, two)]
    ks = sorted({int(k) for frame in frames for k in frame["k"].unique()})
    if len(ks) > 1:
        raise RecsysError(f"NDCG at {ks[0]} and at {ks[1]}", f"runs of {TABLE}", "Compare runs of one gate.k.")
    both = frames[0].merge(frames[1], on=keys, suffixes=("_a", "_b"))
    if both.empty:
        raise RecsysError("no user was ranked in both runs", f"runs of {TABLE}", "Compare nights of one log.")
    lines = [
        f"A: {one.dt} run {one.run_id}",
        *_trained(store, one),
        f"B: {two.dt} run {two.run_id}",
        *_trained(store, two),
        f"NDCG@{ks[0]}; difference B - A with its {gate.confidence:.0%} interval over the users of both",
        "",
        f"{'model':<12}{'users':>9}{'A':>10}{'B':>10}{'B - A':>10}   interval",
    ]
    for model, rows in both.groupby("model", sort=False):
        differences = (rows["ndcg_b"] - rows["ndcg_a"]).to_numpy(np.float64)
        low, high = intervals(differences[:, None], gate.confidence, gate.resamples, gate.seed)[0]
        means = rows["ndcg_a"].mean(), rows["ndcg_b"].mean()
        lines.append(
            f"{model:<12}{len(rows):>9,}{means[0]:>10.4f}{means[1]:>10.4f}{means[1] - means[0]:>+10.4f}   "
            f"{low:+.4f} to {high:+.4f}"
        )
    return "\n".join(lines)


def _trained(store: TableStore, run: Manifest) -> list[str]:
    """How the night's models were trained, a line each; nothing of those that are gone."""
    found = {table: sealed(store, table, run.dt, run.inputs.get(table, "")) for table in ("retrieval_model", "ranker")}
    told = {table: training_of(manifest) for table, manifest in found.items() if manifest is not None}
    return [f"   {table}: {text}" for table, text in told.items() if text]
