"""Stage ``sources``: item neighbours, vectors by attributes, popular items of segments, and how sources are blended.

What no setting asks for is an empty table.
"""

from __future__ import annotations

from recsys_spark.scoring.prepare.blend import write_blend
from recsys_spark.scoring.prepare.neighbours import write_neighbours
from recsys_spark.scoring.prepare.segments import write_segments
from recsys_spark.scoring.prepare.tower import write_content
from recsys_spark.scoring.sources.state import SOURCE_TABLES
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest


def write_sources(work: Work) -> list[Manifest]:
    """Write the tables that further sources of candidates read."""
    written = [write_neighbours(work), write_content(work), write_segments(work)]
    blend = write_blend(work, {manifest.table: manifest for manifest in written})
    return [*written, blend]


STAGE = Stage(
    name="sources",
    does="what further sources of candidates read: neighbours, vectors by attributes, segments, their blend",
    run=write_sources,
    sections=("split", "features", "candidates", "cold", "rules.hide_seen"),
    inputs=(
        "histories",
        "item_stats",
        "item_windows",
        "item_features",
        "user_features",
        "item_ids",
        "user_ids",
        "vocabularies",
        "feature_spec",
        "retrieval_model",
    ),
    outputs=SOURCE_TABLES,
)
