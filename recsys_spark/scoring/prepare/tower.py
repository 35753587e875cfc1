"""Table ``content_model``: at each cut, vectors of the items by their attributes.

A network (``models.tower``) learns to tell the vectors of items with many events from their attributes. How well it
does is measured at the first cut on well-known items that it was not shown, which choose the number of passes too;
each cut's own network then makes so many passes over all well-known items of that cut.

Which items there are, and their attributes, is taken from the run's day at all cuts: at an earlier one, an item that
came later is a new item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.config import Cold
from recsys_spark.cuts import Cut, cuts
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.scoring.state import load_state, state_ref
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.arrays import field_arrays, read_parquet, save_array
from recsys_spark.tables.histories import UserBlock, uniform
from recsys_spark.tables.layout import index_size

if TYPE_CHECKING:
    from torch import Tensor

    from recsys_spark.models.fields import FieldTables
    from recsys_spark.models.tower import ItemTower

_BATCH = 1024
_DECAY = 0.01  # decoupled weight decay of the network
_SALT = 4  # which well-known items are held out
_POPULAR = 0.1  # how much nearer an item is for being the most popular
_CHECKED_USERS = 2_000
_LISTED = 20  # at most, and a quarter of the held-out items
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """Items at a cut as the network learns from them.

    Parameters
    ----------
    vectors : float32 [M, D]
        Of the retrieval model; the last place is the bias.
    events : int64 [M]
        Before the cut.
    settings : Cold
    fields : FieldTables
        Attributes of the items.
    sizes : list of int
        Codes of each field.
    """

    vectors: FloatArray
    events: NDArray[np.int64]
    settings: Cold
    fields: FieldTables
    sizes: list[int]

    @property
    def well(self) -> NDArray[np.int64]:
        """Items with events enough."""
        return np.flatnonzero(self.events >= self.settings.min_item_events)


def write_content(work: Work) -> Manifest:
    """Fit the networks and write their vectors, where the settings ask for them.

    Raises
    ------
    RecsysError
        Hardly any item has events enough to learn from.
    """
    store, settings = work.store, work.settings
    asked = {*settings.candidates.further(), *settings.cold.chain}
    if not (settings.cold.items or "content" in asked):
        return store.seal(None, "content_model", work.stamp)
    folder, all_cuts = store.folder("content_model", work.stamp), cuts(work.dt, settings.split)
    fields, sizes, described = _fields(work)
    passes, check = 0, dict[str, Any]()
    for at in all_cuts:
        state = load_state(state_ref(store.storage.uri, work.inputs, at, settings.features))
        known = Known(np.array(state.vectors), state.events, settings.cold, fields, sizes)
        if at is all_cuts[0]:
            passes, check = _choose(work, known, at, state.user_vectors)
        told = told_vectors(fit_tower(known, known.well, passes)[0], known)
        told[~described] = 0.0
        save_array(store.storage, f"{folder}/content.{at.name}.npy", content_vectors(told, state.recent_users))
        if settings.cold.items:
            save_array(store.storage, f"{folder}/item_vectors.{at.name}.npy", cold_vectors(known, told, described))
    store.storage.write_json(f"{folder}/check.json", check)
    extra = {"items": settings.cold.items, "new_items": settings.cold.new_items, "check": check}
    return store.seal(None, "content_model", work.stamp, extra=extra)


def content_vectors(told: FloatArray, recent_users: NDArray[np.int64]) -> FloatArray:
    """What the attributes of items say as directions of length 1, and a little of their popularity of late.

    Many items may have the same attributes, so that nearness alone would leave their order to their indexes.

    Parameters
    ----------
    told : float32 [M, D]
        Vectors by attributes, the last place is the bias; zeros where attributes say nothing.
    recent_users : int64 [M]

    Returns
    -------
    float32 [M, D]
        Directions; the last place is from 0 to ``_POPULAR``, in proportion to the logarithm of the users.
    """
    directions = told[:, :-1] / np.maximum(np.linalg.norm(told[:, :-1], axis=1, keepdims=True), 1e-30)
    popular = np.log1p(recent_users)
    share = _POPULAR * popular / max(float(popular.max(initial=0.0)), 1e-30)
    return np.column_stack([directions, share * directions.any(axis=1)]).astype(np.float32)


def cold_vectors(known: Known, told: FloatArray, described: NDArray[np.bool_]) -> FloatArray:
    """Vectors of all items, float32 [M, D]: of those with few events and attributes that say something, blended."""
    from recsys_spark.models.tower import blended

    cold = np.flatnonzero((known.events < known.settings.min_item_events) & described)
    vectors = known.vectors.copy()
    vectors[cold] = blended(vectors[cold], told[cold], known.events[cold], known.settings.shrinkage)
    return vectors


def _fields(work: Work) -> tuple[FieldTables, list[int], NDArray[np.bool_]]:
    """Attributes of the items, codes of each field, and which items have any attribute at all, bool [M]."""
    from recsys_spark.models.fields import FieldTables, SideTables

    settings, storage, size = work.settings, work.store.storage, index_size(work.inputs["item_ids"])
    spec = storage.read_json(f"{work.inputs['feature_spec'].folder}/spec.json")["item"]
    names = settings.cold.features or [feature.name for feature in settings.features.item]
    forms = {form: [name for name in names if spec[name]["form"] == form] for form in ("weighted", "dense")}
    entries = {"codes": [name for name in names if name not in forms["dense"]], **forms}
    codes, weights, dense = field_arrays(read_parquet(storage, work.inputs["item_features"].folder), entries, size)
    described = np.zeros(size, bool)
    for name, each in zip(entries["codes"], codes, strict=True):
        missing = spec[name].get("kind") == "number"  # whose missing bucket has a code of its own
        described |= (each > (1 if missing else 0)).reshape(size, -1).any(axis=1)
    if dense is not None:
        described |= (~np.isnan(dense)).any(axis=1)
    described[: c.FIRST_INDEX] = False
    tables = FieldTables(SideTables([]), SideTables(codes, weights, dense))
    return tables, [int(spec[name]["size"]) for name in entries["codes"]], described


def _choose(work: Work, known: Known, at: Cut, user_vectors: FloatArray) -> tuple[int, dict[str, Any]]:
    """Number of passes that fits held-out items best, and figures of how well it does."""
    well = known.well
    held_out = uniform(np.zeros(len(well), np.int32), well, _SALT) < known.settings.held_out
    if held_out.all() or not held_out.any():
        raise RecsysError(
            f"{len(well)} item(s) have {known.settings.min_item_events} events or more before the cut '{at.name}', too "
            "few to learn vectors from",
            "setting 'cold.min_item_events'",
            "Lower it, or leave out cold.items and the source content.",
        )
    network, passes, fit = fit_tower(known, well[~held_out], None, well[held_out])
    told = told_vectors(network, known)
    block = UserBlock.from_arrow(read_parquet(work.store.storage, work.inputs["histories"].folder)).before(at.time)
    listed = max(1, min(_LISTED, int(held_out.sum()) // 4))
    recalls = {
        name: held_out_recall(block, user_vectors, vectors, well[held_out], listed)
        for name, vectors in (("told", told), ("own", known.vectors), ("popular", _bias_alone(known.vectors)))
    }
    check = {"items": len(well), "held_out": int(held_out.sum()), "passes": passes, **fit}
    check |= {"listed": listed, **{f"recall_{name}": round(value, 5) for name, value in recalls.items()}}
    figures = " · ".join(f"{name} {value:.4g}" for name, value in check.items())
    say(f"sources: vectors from attributes, at '{at.name}': {figures}")
    return passes, check


def _bias_alone(vectors: FloatArray) -> FloatArray:
    alone = np.zeros_like(vectors)
    alone[:, -1] = vectors[:, -1]
    return alone


def held_out_recall(
    block: UserBlock, user_vectors: FloatArray, vectors: FloatArray, items: NDArray[np.int64], listed: int
) -> float:
    """Share of the held-out items users had that are among the best ``listed`` held-out items by given vectors.

    Parameters
    ----------
    block : UserBlock
        Events before the cut.
    user_vectors : float32 [users, D]
    vectors : float32 [M, D]
    items : int64 [H]
        The held-out items.
    listed : int
    """
    hits = had = 0
    active = np.flatnonzero(np.diff(block.indptr) > 0)
    draws = uniform(block.users[active], np.zeros(len(active), np.int64), _SALT)
    for user in active[np.argsort(draws, kind="stable")[:_CHECKED_USERS]].tolist():
        mine = np.isin(items, block.items[block.indptr[user] : block.indptr[user + 1]])
        if not mine.any():
            continue
        scores = vectors[items] @ user_vectors[block.users[user]]
        best = np.argsort(-scores, kind="stable")[:listed]
        hits, had = hits + int(mine[best].sum()), had + min(int(mine.sum()), listed)
    return hits / max(had, 1)


def fit_tower(
    known: Known, items: NDArray[np.int64], passes: int | None, held_out: NDArray[np.int64] | None = None
) -> tuple[ItemTower, int, dict[str, float]]:
    """Fit a network on the vectors of some items.

    The loss is the squared distance, an item's in proportion to n / (n + m): its own vector is as good as that many
    events make it. Vectors and biases are put on a scale of their own first, so that both count.

    Parameters
    ----------
    known : Known
    items : int64 [B]
    passes : int, optional
        So many; by default, until the held-out items are no better fitted for ``cold.patience`` passes.
    held_out : int64 [H], optional

    Returns
    -------
    network : ItemTower
        With the scale undone; of the best pass.
    passes : int
    fit : dict
        Of the held-out items: R² of the vectors, mean cosine, R² of the bias.
    """
    import torch

    from recsys_spark.models.tower import ItemTower

    settings = known.settings
    torch.manual_seed(settings.seed)
    target = torch.from_numpy(known.vectors)
    mean = target[items].mean(0)
    scale = (target[items] - mean).square().mean(0).sqrt()
    scale[:-1] = scale[:-1].square().mean().sqrt()
    scale = scale.clamp_min(1e-6)
    weight = torch.from_numpy(known.events / (known.events + settings.shrinkage)).float()
    dense = known.fields.item.dense
    width = target.shape[1]
    network = ItemTower(
        known.sizes, 0 if dense is None else dense.shape[1], settings.dim, settings.hidden, width, settings.dropout
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=_DECAY, fused=True)
    importance = torch.ones(width)
    importance[-1] = width / 4  # the bias is one number of many, and moves an item against all others

    def loss_of(batch: Tensor) -> Tensor:
        wanted = (target[batch] - mean) / scale
        distance = ((_told(network, known.fields, batch) - wanted).square() * importance).mean(1)
        return (distance * weight[batch]).sum() / weight[batch].sum()

    best, chosen, weights = float("inf"), 0, network.state_dict()
    for number in range(passes or settings.epochs):
        network.train()
        for batch in torch.from_numpy(items)[torch.randperm(len(items))].split(_BATCH):
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()
        if held_out is None:
            continue
        network.eval()
        with torch.no_grad():
            figure = float(loss_of(torch.from_numpy(held_out)))
        if figure < best:
            best, chosen = figure, number + 1
            weights = {name: value.clone() for name, value in network.state_dict().items()}
        elif number + 1 - chosen >= settings.patience:
            break
    if held_out is not None:
        network.load_state_dict(weights)
    network.eval()
    network.rescale(scale, mean)
    fit = {} if held_out is None else _fit_of(told_vectors(network, known)[held_out], known.vectors[held_out])
    return network, chosen or settings.epochs, fit


def _fit_of(told: FloatArray, own: FloatArray) -> dict[str, float]:
    """R² of vectors and biases, and the mean cosine of what was told with what is."""

    def r2(one: FloatArray, other: FloatArray) -> float:
        total = np.square(other - other.mean(axis=0)).sum()
        return float(1.0 - np.square(one - other).sum() / max(float(total), 1e-30))

    norms = np.linalg.norm(told[:, :-1], axis=1) * np.linalg.norm(own[:, :-1], axis=1)
    cosines = (told[:, :-1] * own[:, :-1]).sum(axis=1) / np.maximum(norms, 1e-30)
    figures = {
        "r2": r2(told[:, :-1], own[:, :-1]),
        "cosine": float(cosines.mean()),
        "r2_bias": r2(told[:, -1], own[:, -1]),
    }
    return {name: round(value, 5) for name, value in figures.items()}


def told_vectors(network: ItemTower, known: Known) -> FloatArray:
    """What the network tells of all items, float32 [M, D]."""
    import torch

    with torch.no_grad():
        parts = [_told(network, known.fields, part) for part in torch.arange(len(known.vectors)).split(16 * _BATCH)]
    told: FloatArray = torch.cat(parts).numpy()
    return told


def _told(network: ItemTower, fields: FieldTables, items: Tensor) -> Tensor:
    inputs = fields.inputs(items[:0], items)
    vectors: Tensor = network(inputs["codes"], inputs["weights"], inputs["values"])
    return vectors
