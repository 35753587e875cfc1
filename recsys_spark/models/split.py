"""DeepFM cut into parts of the user's, the item's and the pair's own: the same logits, most of the work once a side.

Shape legend: U users, M items, B pairs, D length of an embedding, H width of the first hidden layer, P pair features.

Of a row's embeddings, let S be their sum and Q the sum of their squares. The FM part is (‖S‖² - Q) / 2, and S is that
of the user plus that of the item plus that of the pair: what is left for a pair is a product of vectors. The first
hidden layer is linear in all inputs side by side, so it is a sum of three parts too. The pair features enter by the
embedding of their bucket: what a bucket does to S, to the first order and to the hidden layer is looked up in one
table. Above the first layer everything runs for each pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recsys_spark.models.deepfm import FIRST_BUCKET, DeepFM
from recsys_spark.models.fields import FieldTables
from recsys_spark.models.upper import Upper, padded

Floats = NDArray[np.float32]
_PAIRS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Sides:
    """What pairs take of some users, or of some items.

    Parameters
    ----------
    total : float32 [rows, D]
        S.
    alone : float32 [rows]
        First order, and the FM part within the side.
    hidden : float32 [rows, H]
        Part of the first layer, before its activation.
    """

    total: Floats
    alone: Floats
    hidden: Floats

    def take(self, rows: NDArray[np.int64] | slice) -> Sides:
        """Some of the rows."""
        return Sides(self.total[rows], self.alone[rows], self.hidden[rows])


class SplitDeepFM:
    """Logits of a trained DeepFM, equal to the module's in evaluation mode but for rounding.

    Parameters
    ----------
    model : DeepFM
        Not changed; what is made of its weights is made here, once.
    fields : FieldTables
        The fields of users and items, in the model's order.
    """

    @torch.no_grad()
    def __init__(self, model: DeepFM, fields: FieldTables) -> None:
        self.model, self.fields, spec = model, fields, model.spec
        first = model.deep[0]
        assert isinstance(first, nn.Linear)
        self.upper = Upper(model.deep[1:])
        # where each field's D columns of the first layer are: single codes, then numbers, then pooled lists
        singles = [field for field, length in enumerate(spec.lengths) if length == 1]
        lists = [field for field, length in enumerate(spec.lengths) if length != 1]
        weight, bias = first.weight.detach(), first.bias.detach()
        if self.upper.linear:
            weight, bias = padded(weight.T, 1).T, padded(bias, 1)
        blocks = weight[:, : len(model.starts) * spec.dim].split(spec.dim, dim=1)
        numbers_at = len(singles)
        self.of_field = dict(zip(singles, blocks, strict=False))
        self.of_field |= dict(zip(lists, blocks[numbers_at + spec.numbers :], strict=True))
        rest = weight[:, len(model.starts) * spec.dim :]
        self.of_quantiles, of_dense = rest[:, : spec.numbers].T.contiguous().numpy(), rest[:, spec.numbers :]
        user_dense = 0 if fields.user.dense is None else fields.user.dense.shape[1]
        values, missing = of_dense[:, : spec.dense], of_dense[:, spec.dense :]
        self.of_dense = {
            "user": torch.cat([values[:, :user_dense], missing[:, :user_dense]], dim=1),
            "item": torch.cat([values[:, user_dense:], missing[:, user_dense:]], dim=1),
        }
        if spec.dense:
            slopes, absent = model.slope[: spec.dense], model.slope[spec.dense :]
            self.slope = {
                "user": torch.cat([slopes[:user_dense], absent[:user_dense]]),
                "item": torch.cat([slopes[user_dense:], absent[user_dense:]]),
            }
        self.bias = bias + 0.0
        added, hidden = self._of_buckets(blocks[numbers_at : numbers_at + spec.numbers])
        self.of_bucket, self.hidden_of_bucket = added, hidden.numpy()

    def _of_buckets(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """What each bucket of each number adds to S and ``alone`` [rows, D + 1], and to the first layer [rows, H]."""
        spec, added, hidden = (
            self.model.spec,
            [torch.zeros(0, self.model.spec.dim + 1)],
            [torch.zeros(0, len(self.bias))],
        )
        for number, block in enumerate(blocks):
            start = int(self.model.starts[len(spec.sizes) + number])
            rows = slice(start, start + spec.buckets + FIRST_BUCKET)
            vectors = self.model.embedding.weight[rows]
            alone = self.model.first.weight[rows] - 0.5 * vectors.square().sum(1, keepdim=True)
            added.append(torch.cat([vectors, alone], dim=1))
            hidden.append(vectors @ block.T)
        return torch.cat(added), torch.cat(hidden)

    @torch.no_grad()
    def users(self, index: Tensor) -> Sides:
        """Parts of some users, int64 [U]."""
        sides = self._side("user", 0, index)
        return Sides(sides.total, sides.alone + self.model.intercept.numpy(), sides.hidden + self.bias.numpy())

    @torch.no_grad()
    def items(self, index: Tensor) -> Sides:
        """Parts of some items, int64 [M]."""
        return self._side("item", len(self.fields.user.codes), index)

    def _side(self, name: str, before: int, index: Tensor) -> Sides:
        model, tables = self.model, getattr(self.fields, name)
        size = (len(index), model.spec.dim)
        total, squares = torch.zeros(size), torch.zeros(len(index))
        linear, hidden = torch.zeros(len(index)), torch.zeros(len(index), len(self.bias))
        for place, (table, weight) in enumerate(zip(tables.codes, tables.weights, strict=True)):
            field = before + place
            codes = table[index].long()
            rows = codes + model.starts[field]
            if codes.shape[1] == 1:
                vector, first = model.embedding(rows[:, 0]), model.first(rows[:, 0])[:, 0]
            else:
                share = (codes != 0).float().unsqueeze(2)
                count = share.sum(1).clamp_min(1.0)
                if weight is not None:
                    share = share * weight[index].unsqueeze(2)
                vector = (model.embedding(rows) * share).sum(1) / count
                first = ((model.first(rows) * share).sum(1) / count)[:, 0]
            total, squares = total + vector, squares + vector.square().sum(1)
            linear = linear + first
            hidden = hidden.addmm(vector, self.of_field[field].T)
        if tables.dense is not None:
            values = tables.dense[index]
            dense = torch.cat([values.nan_to_num(0.0), values.isnan().float()], dim=1)
            linear = linear + dense @ self.slope[name]
            hidden = hidden.addmm(dense, self.of_dense[name].T)
        alone = linear + 0.5 * (total.square().sum(1) - squares)
        return Sides(total.numpy(), alone.numpy(), hidden.numpy())

    @torch.no_grad()
    def pairs(
        self, users: Sides, items: Sides, owner: NDArray[np.int64], item: NDArray[np.int64], numbers: Floats
    ) -> Floats:
        """Logits of pairs, float32 [B].

        Parameters
        ----------
        users, items : Sides
        owner, item : int64 [B]
            Row of each pair's user and item in these.
        numbers : float32 [B, P]
            Pair features; NaN is missing.
        """
        logits = np.empty(len(owner), np.float32)
        for at in range(0, len(owner), _PAIRS_AT_ONCE):
            part = slice(at, at + _PAIRS_AT_ONCE)
            logits[part] = self._part(users, items, owner[part], item[part], numbers[part])
        return logits

    def _part(
        self, users: Sides, items: Sides, owner: NDArray[np.int64], item: NDArray[np.int64], numbers: Floats
    ) -> Floats:
        model, dim = self.model, self.model.spec.dim
        of_user, of_item = users.total[owner], items.total[item]
        logits = users.alone[owner] + items.alone[item] + np.einsum("bd,bd->b", of_user, of_item)
        rows = torch.zeros((len(owner), 0), dtype=torch.int64)
        quantiles = rows.float()
        if model.spec.numbers:
            values = torch.from_numpy(numbers)
            bucket, starts = model.buckets(values), model.starts[len(model.spec.sizes) :]
            quantiles = model.quantiles_in(values, bucket)
            rows = torch.where(values.isnan(), 0, bucket + FIRST_BUCKET) + (starts - starts[0])
            added = functional.embedding_bag(rows, self.of_bucket, mode="sum").numpy()
            own = added[:, :dim]
            logits += added[:, dim] + np.einsum("bd,bd->b", own, of_user + of_item + 0.5 * own)
        buckets = (self.hidden_of_bucket, rows.numpy(), self.of_quantiles, quantiles.contiguous().numpy())
        self.upper.add_pairs(users.hidden, items.hidden, owner, item, *buckets, logits)
        return logits

    def catalogue(self, users: Sides, items: Sides) -> Floats:
        """Logits of all users with all items, float32 [U, M], of a model without pair features.

        Raises
        ------
        ValueError
            The model has pair features.
        """
        logits = self.products(users, items)
        for row, own in enumerate(users.hidden):
            self.upper.add_rows(items.hidden, own, logits[row])
        return logits

    def products(self, users: Sides, items: Sides) -> Floats:
        """Logits without what the layers add, float32 [U, M]."""
        if self.model.spec.numbers:
            raise ValueError("pairs have features of their own: a whole catalogue cannot be scored by its sides alone")
        logits = users.total @ items.total.T
        logits += items.alone
        logits += users.alone[:, None]
        return logits
