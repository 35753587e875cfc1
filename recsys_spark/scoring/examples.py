"""Stage ``candidates``: what the ranker learns from, made by the same code that serves it later."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import VALID, Cut, label_cuts
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.candidates import USERS_AT_ONCE, Plan, build_candidates, candidate_plan
from recsys_spark.scoring.labelled import write_labelled
from recsys_spark.scoring.pairs import MODEL_RANK, feature_names
from recsys_spark.scoring.search import Search
from recsys_spark.scoring.sources.state import SOURCE_TABLES
from recsys_spark.scoring.state import StateRef, load_state, state_ref
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.examples import write_shuffled
from recsys_spark.tables.histories import by_bucket, is_in, uniform, user_blocks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def write_ranker_examples(work: Work) -> list[Manifest]:
    """Write ``ranker_examples``: candidates of users who did something in a label window, with target and features.

    Where the settings say that labels are given, these are the examples; see ``labelled``.
    """
    settings, store = work.settings, work.store
    if settings.labels.kind == c.GIVEN:
        return write_labelled(work)
    if settings.split.ranker_windows < 2:
        raise RecsysError(
            "there is no window to train a ranker on, since the last one is for validation",
            "setting 'split.ranker_windows' = 1",
            "Set 2 or more; with 1 only the stages up to train-retrieval can run.",
        )
    numbers = feature_names(settings.features, settings.candidates.further())
    histories = by_bucket(store.read(work.spark, work.inputs["histories"]), settings.buckets)
    folder = store.folder("ranker_examples", work.stamp)
    windows = label_cuts(work.dt, settings.split)
    splits = {
        "train": [each for each in windows if each.name != VALID],
        "valid": [each for each in windows if each.name == VALID],
    }
    rows: dict[str, int] = {}
    for split, its_cuts in splits.items():
        # kept, since the range shuffle reads it twice: once to find its bounds
        frame = _union([_examples(work, histories, each, numbers) for each in its_cuts]).persist()
        url = store.storage.url(f"{folder}/{c.SPLIT}={split}")
        target, least = settings.features.row_group_rows, settings.features.min_row_groups
        rows[split] = write_shuffled(frame, url, [c.USER_INDEX, c.ITEM_INDEX, c.CUT], target, least)
        if not rows[split]:
            raise RecsysError(
                f"no user with a past did anything after {' or '.join(each.name for each in its_cuts)}",
                f"candidates of split '{split}'",
                "A ranker needs more users and events, or wider windows (settings 'split').",
            )
    extra = {"rows_of_split": rows, "numbers": numbers}
    return [store.seal(work.spark, "ranker_examples", work.stamp, sum(rows.values()), extra)]


def _examples(work: Work, histories: DataFrame, cut: Cut, numbers: list[str]) -> DataFrame:
    settings = work.settings
    ref = state_ref(work.store.storage.uri, work.inputs, cut, settings.features, Search.of(settings))
    make = partial(
        _example_batches,
        ref=ref,
        plan=candidate_plan(settings, work.store, work.inputs, ref),
        retrieved=settings.candidates.retrieved,
        share=settings.ranker.negative_share,
        hard=settings.ranker.hard_negatives,
        numbers=numbers,
    )
    columns = [f"{c.CUT} string", f"{c.USER_INDEX} int", f"{c.ITEM_INDEX} int", f"{c.TARGET} int"]
    columns += [f"{c.OFFSET} float"] if settings.ranker.hard_negatives else []
    return histories.mapInArrow(make, ", ".join([*columns, *[f"{name} float" for name in numbers]]))


def _example_batches(
    batches: Iterator[pa.RecordBatch],
    ref: StateRef,
    plan: Plan,
    retrieved: int,
    share: float,
    hard: float,
    numbers: list[str],
) -> Iterator[pa.RecordBatch]:
    """Runs on the executors: a bucket of histories to rows of examples."""
    cut = ref.cut
    for block in user_blocks(batches, USERS_AT_ONCE):
        known, after = block.before(cut.time), block.between(cut.time, cut.until)
        active = np.diff(after.indptr) > 0
        if not active.any():
            continue
        found = build_candidates(known, load_state(ref), cut.time, plan)
        target = is_in(after, found.rows, found.items)
        rate = keep_rates(found.numbers[:, numbers.index(MODEL_RANK)], retrieved, share, hard)
        keep = active[found.rows] & (target | (uniform(block.users[found.rows], found.items, cut.time) < rate))
        rows, items = found.rows[keep], found.items[keep]
        arrays = {
            c.CUT: pa.array([cut.name] * len(rows), pa.string()),
            c.USER_INDEX: pa.array(block.users[rows], pa.int32()),
            c.ITEM_INDEX: pa.array(items.astype(np.int32)),
            c.TARGET: pa.array(target[keep].astype(np.int32)),
            **({c.OFFSET: pa.array(np.log(share / rate[keep]).astype(np.float32))} if hard else {}),
            **{name: pa.array(found.numbers[keep, i]) for i, name in enumerate(numbers)},
        }
        yield from pa.table(arrays).to_batches()


def keep_rates(rank: NDArray[np.float32], retrieved: int, share: float, hard: float) -> NDArray[np.float64]:
    """Probability with which a candidate that was not taken is kept as a negative.

    Of about ``share * retrieved`` kept negatives a user, the part ``hard`` is the top of the retrieved list, kept
    whole; the others are kept evenly. Negatives that the retrieval model finds likely teach the ranker more than most.
    So that its logits still mean the same for all candidates, those of training are given an offset,
    log(share / rate): the correction for what a sample keeps (King and Zeng 2001), row by row.

    Parameters
    ----------
    rank : float32 [C]
        1 for the best of a user's retrieved items.
    retrieved : int
        Length of the list.
    share, hard : float
    """
    return np.where(rank <= round(hard * share * retrieved), 1.0, share * (1.0 - hard))


def _union(frames: list[DataFrame]) -> DataFrame:
    union = frames[0]
    for frame in frames[1:]:
        union = union.unionByName(frame)
    return union


STAGE = Stage(
    name="candidates",
    does="candidates and pair features of the label windows, or the labels given, for the ranker",
    run=write_ranker_examples,
    # of the ranker only what is read above: other settings of it change no candidate
    sections=(
        "split",
        "features",
        "labels",
        "candidates",
        "cold",
        "rules.hide_seen",
        "ranker.negative_share",
        "ranker.hard_negatives",
    ),
    inputs=(
        "histories",
        "item_stats",
        "item_windows",
        "item_features",
        "user_features",
        "retrieval_model",
        *SOURCE_TABLES,
        "labels",
    ),
    outputs=("ranker_examples",),
)
