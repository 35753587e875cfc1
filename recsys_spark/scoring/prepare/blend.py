"""Table ``fusion``: weights of the learned blend, fitted on what users did in the validation window.

The blend has three weights a source, and is used at all cuts. The test window and what is published come after the
window that it is fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from recsys_spark.auc import AucHistogram
from recsys_spark.cuts import VALID, Cut, cut
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.scoring.candidates import USERS_AT_ONCE, Plan, candidate_plan, find_pairs
from recsys_spark.scoring.past import past_of
from recsys_spark.scoring.search import Search
from recsys_spark.scoring.sources.fusion import BLEND, blend_columns, fit_blend
from recsys_spark.scoring.state import StateRef, load_state, state_ref
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.histories import by_bucket, is_in, uniform, user_blocks

_SALT = 3  # the sample is one of its own


def write_blend(work: Work, written: dict[str, Manifest]) -> Manifest:
    """Fit the blend where the settings ask for it, from the tables that the other sources read.

    Raises
    ------
    RecsysError
        Nobody took a candidate in the validation window.
    """
    store, settings = work.store, work.settings
    if settings.candidates.fusion != "learned":
        return store.seal(None, "fusion", work.stamp)
    at, inputs = cut(work.dt, settings.split, VALID), {**work.inputs, **written}
    ref = state_ref(store.storage.uri, inputs, at, settings.features, Search.of(settings))
    plan = candidate_plan(settings, store, inputs, ref, fusion="union")
    share = min(1.0, settings.candidates.fusion_users / max(1, work.inputs["histories"].rows))
    names = [f"{part.name}_{column}" for part in plan.parts for column in BLEND]
    histories = by_bucket(store.read(work.spark, work.inputs["histories"]), settings.buckets)
    make = partial(_columns, ref=ref, plan=plan, at=at, share=share)
    schema = ", ".join(["target boolean", *[f"{name} float" for name in names]])
    rows = histories.mapInArrow(make, schema).toArrow()
    target = rows["target"].to_numpy()
    if not target.any():
        raise RecsysError(
            "nobody took a candidate in the validation window, so there is nothing to fit a blend on",
            "setting 'candidates.fusion' = learned",
            "Widen split.valid_days, or choose another fusion.",
        )
    columns = np.stack([rows[name].to_numpy() for name in names], axis=1).astype(np.float64)
    weights = fit_blend(columns, target)
    auc = AucHistogram.of(weights[0] + columns @ weights[1:], target).auc()
    say(f"sources: blend of {len(target):,} candidates, {int(target.sum()):,} of them taken, AUC {auc:.4f}")
    told = {
        "columns": ["intercept", *names],
        "weights": weights.round(9).tolist(),
        "rows": len(target),
        "auc": round(auc, 6),
    }
    store.storage.write_json(f"{store.folder('fusion', work.stamp)}/blend.json", told)
    return store.seal(None, "fusion", work.stamp)


def _columns(
    batches: Iterator[pa.RecordBatch], ref: StateRef, plan: Plan, at: Cut, share: float
) -> Iterator[pa.RecordBatch]:
    """Runs on the executors: what the blend looks at, of the candidates of a sample of active users."""
    for block in user_blocks(batches, USERS_AT_ONCE):
        known, after = block.before(at.time), block.between(at.time, at.until)
        use = (np.diff(after.indptr) > 0) & (uniform(block.users, np.zeros(len(block), np.int64), _SALT) < share)
        if not use.any():
            continue
        state = load_state(ref)
        _, joined = find_pairs(past_of(known, len(state.events), at.time), state, plan)
        joined = joined.only(use[joined.rows])
        target = is_in(after, joined.rows, joined.items)
        columns = blend_columns(joined).astype(np.float32)
        names = [f"{part.name}_{column}" for part in plan.parts for column in BLEND]
        yield pa.RecordBatch.from_arrays([pa.array(target), *map(pa.array, columns.T)], ["target", *names])
