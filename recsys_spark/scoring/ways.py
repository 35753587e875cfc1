"""Whose models make the lists of a night: tonight's, the champion's where the gate has held these, or two of a test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys_spark.arms import A, B, in_arm_b
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.stage import Work
from recsys_spark.tables.champion import resolve
from recsys_spark.tables.versions import check_versions

MODELS = {"retrieval": "retrieval_model", "ranker": "ranker"}
CHAMPION, TONIGHT, RETRIEVAL = "champion", "tonight", "retrieval"


@dataclass(frozen=True)
class Arm:
    """An arm of a test; small, and sent to the workers."""

    name: str
    test: str
    share: float

    def holds(self, user_ids: list[str]) -> NDArray[np.bool_]:
        """Whether each user is in it."""
        return in_arm_b(user_ids, self.test, self.share) == (self.name == B)


@dataclass(frozen=True)
class Way:
    """One way to make lists.

    Parameters
    ----------
    model : str
        Whose they are.
    work : Work
        With the models, and the settings, that make them.
    arm : str or None
        The users who get them; None: all.
    """

    model: str
    work: Work
    arm: str | None = None


def ways_of(work: Work) -> list[Way]:
    """How tonight's lists are made; of a test arm a comes first.

    There is no test on a night on which one of its models cannot make lists, or the gate has held tonight's: all users
    get the same, and nobody has an arm.
    """
    judged = work.inputs["gate"].extra if "gate" in work.inputs else {}
    if "instead" in judged:  # lists by the champion's models, on tonight's tables
        held = replace(work, inputs={**work.inputs, **resolve(work.store, judged["instead"])})
        say(f"score: by the models of {held.inputs['ranker'].dt}, since the gate has held tonight's")
        return [Way(CHAMPION, held)]
    test = work.settings.experiment
    if test.name is None:
        return [Way(TONIGHT, work)]
    if CHAMPION in (test.a, test.b) and "champion" not in judged:
        say(f"score: no test '{test.name}' tonight, since there is no champion that can rank tonight's tables")
        return [Way(TONIGHT, work)]
    found = []
    for arm, model in ((A, test.a), (B, test.b)):
        theirs = work
        if model == CHAMPION:
            theirs = replace(work, inputs={**work.inputs, **resolve(work.store, judged["champion"])})
        elif model == RETRIEVAL:
            by = work.settings.score.model_copy(update={"by": RETRIEVAL})
            theirs = replace(work, settings=work.settings.model_copy(update={"score": by}))
        found.append(Way(model, theirs, arm))
    told = ", ".join(f"arm {way.arm} by {way.model}" for way in found)
    say(f"score: test '{test.name}': {told}")
    return found


def check_models(work: Work) -> None:
    """See that tonight's models were trained on the tables at hand, and the ranker on that retrieval model.

    Raises
    ------
    RecsysError
        Both versions are named.
    """
    for model in MODELS.values():
        check_versions(work.inputs[model], work.inputs)
    folder = work.inputs["ranker"].folder
    trained_on = work.store.storage.read_json(f"{folder}/spec.json")["retrieval_version"]
    version = work.inputs["retrieval_model"].content_hash
    if trained_on != version:
        raise RecsysError(
            f"the ranker was trained on retrieval version {trained_on}, the current one is {version}",
            "tables 'ranker' and 'retrieval_model'",
            "Run train-ranker again.",
        )
