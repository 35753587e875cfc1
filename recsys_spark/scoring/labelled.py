"""Labels given in the log as examples of the ranker: no candidates, no pair features."""

from __future__ import annotations

from recsys_spark import columns as c
from recsys_spark.cuts import TEST, VALID
from recsys_spark.errors import RecsysError
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.examples import write_shuffled

SPLITS = ("train", VALID, TEST)


def write_labelled(work: Work) -> list[Manifest]:
    """Write ``ranker_examples`` from ``labels``: splits to train, to validate, and to be judged on by ``evaluate``.

    Raises
    ------
    RecsysError
        There is nothing to train on, or to validate on.
    """
    store, features = work.store, work.settings.features
    labels, folder = store.read(work.spark, work.inputs["labels"]), store.folder("ranker_examples", work.stamp)
    key = [c.USER_INDEX, c.ITEM_INDEX, c.TIME, c.TARGET]
    expected = max(1, work.inputs["labels"].rows)
    rows = {}
    for split in SPLITS:
        frame = labels.where(labels[c.SPLIT] == split).select(*key)
        url = store.storage.url(f"{folder}/{c.SPLIT}={split}")
        least = max(features.min_row_groups, work.settings.launch.ranks)
        rows[split] = write_shuffled(frame, url, key, features.row_group_rows, least, expected)
        if not rows[split] and split != TEST:
            raise RecsysError(
                f"no event with a label is in split '{split}'",
                "table 'labels'",
                "Look at settings 'labels', 'split' and input.interactions.value.",
            )
    extra = {"rows_of_split": rows, "numbers": [], "labels": c.GIVEN}
    return [store.seal(work.spark, "ranker_examples", work.stamp, sum(rows.values()), extra)]
