"""What a night's training begins with: the champion's models, or nothing, and why.

The champion is that of before the night, by the day of its lists: a night that is done again, or after later ones,
begins with what it began with. Whether it does is settled by tables, settings and the data's date alone:

* the settings want it, and there is a champion;
* its last full training, which its manifest names, is less than ``warm_start.full_every_nights`` days of data ago. One
  that the gate turned down does not count, since no champion comes of it: the next night tries again;
* the models have the same shape, every index is still the same id's, and each cut lies where the champion's did or
  later, so that its snapshot knows nothing that tonight's must not know.

Else the night trains anew. ``training`` in the manifests' ``extra`` says how it was.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from recsys_spark.config import Settings
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.champion import TRAINING, find_champion, named

WARM, FULL = "warm", "full"


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    Parameters
    ----------
    full_since : str
        Day of the full training that the model goes back to; of a full night, its own.
    says : str
        How it is, and why.
    champion : dict of str to Manifest
        Models that it begins with, by table; none in a full night.
    """

    full_since: str
    says: str
    champion: dict[str, Manifest] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``warm`` or ``full``."""
        return WARM if self.champion else FULL

    @property
    def name(self) -> str:
        """Tells one beginning from another, in the names of checkpoints."""
        if not self.champion:
            return FULL
        contents = json.dumps(self.contents(), sort_keys=True)
        return f"{WARM}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"

    def contents(self) -> dict[str, str]:
        """Content of the models that it begins with."""
        return {name: each.content_hash for name, each in self.champion.items()}

    def facts(self) -> dict[str, Any]:
        """For a manifest's ``extra``: what a night was made from can be found again, and is kept as long as it."""
        told = {"kind": self.kind, "says": self.says, "full_since": self.full_since}
        return {TRAINING: told, **({"models": named(self.champion)} if self.champion else {})}


def full(dt: str, why: str) -> Start:
    """A night that trains anew."""
    return Start(dt, f"full: {why}")


def start_of(store: TableStore, settings: Settings, dt: str) -> Start:
    """What a night begins with by the settings and the days, before anything is said of shapes.

    Parameters
    ----------
    store : TableStore
    settings : Settings
    dt : str
        The night's day, YYYY-MM-DD.
    """
    if not settings.warm_start.enabled:
        return full(dt, "warm_start.enabled is false")
    champion, reason = find_champion(store, dt)
    if champion is None:
        return full(dt, reason)
    theirs = champion["retrieval_model"]
    since = theirs.extra.get(TRAINING, {}).get("full_since")
    if since is None:
        return full(dt, f"the champion of {theirs.dt} does not say when it was trained in full")
    days = (date.fromisoformat(dt) - date.fromisoformat(since)).days
    if days >= settings.warm_start.full_every_nights:
        return full(dt, f"the champion's last full training was on {since}, {days} days ago")
    return Start(since, f"warm: from the model of {theirs.dt}, run {theirs.run_id}", champion)


def decides(store: TableStore, settings: Settings, dt: str) -> dict[str, Any]:
    """What a stage's fingerprint is to hold of its start: nothing, where the night is full."""
    contents = start_of(store, settings, dt).contents()
    return {"start": contents} if contents else {}
