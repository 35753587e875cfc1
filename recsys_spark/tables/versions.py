"""Which tables a model's numbers are bound to: an index of another table would mean another item."""

from __future__ import annotations

from recsys_spark.errors import RecsysError
from recsys_spark.tables.manifest import Manifest

BINDING = ("user_ids", "item_ids", "feature_spec")


def check_versions(model: Manifest, inputs: dict[str, Manifest]) -> None:
    """Refuse a model that was trained on other tables than those at hand.

    Parameters
    ----------
    model : Manifest
        Run of a model's table, with ``trained_on`` in its extra.
    inputs : dict of str to Manifest
        Tables at hand, by name.

    Raises
    ------
    RecsysError
        Both versions are named.
    """
    for table, version in model.extra.get("trained_on", {}).items():
        if table in inputs and inputs[table].content_hash != version:
            raise RecsysError(
                f"the {model.table} was trained on version {version} of {table}, the current one is "
                f"{inputs[table].content_hash}",
                f"tables '{model.table}' and '{table}'",
                f"Run {model.stage} again.",
            )
