"""Models, and what is done with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section


class Training(Section):
    """What both trainings share."""

    epochs: int = Field(ge=1, description="Passes over the examples at most")
    batch_size: int = Field(4096, ge=1, description="Rows of one rank's step")
    learning_rate: float = Field(gt=0)
    patience: int = Field(2, ge=1, description="Epochs without a better validation figure before it stops")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear",
        description="Learning rate over the run: full for a sixth of the steps and then down to 0 in a line; down to 0 "
        "along half a cosine; full throughout",
    )
    warmup_share: float = Field(0.0, ge=0, lt=1, description="Share of the steps in which the rate rises from 0")
    clip_norm: float | None = Field(
        None, gt=0, description="Length of the gradient at most, of all parameters and ranks together; null: any"
    )
    exchange: Literal["auto", "sparse", "dense"] = Field(
        "auto",
        description="How sparse gradients travel between ranks: the touched rows, whole tables, or for each table what "
        "sends less",
    )
    seed: int = 1
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that stay; the best epoch's stays too")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes of training within an epoch after which a checkpoint is written"
    )
    read_timeout: float = Field(600.0, gt=0, description="Seconds without a batch from the reader after which it ends")


class NeuMF(Section):
    """The MLP of a NeuMF; its GMF part has the vectors that matrix factorization has."""

    mlp_dim: int = Field(32, ge=1, description="Length of the MLP's own vectors of users and items")
    hidden: list[Annotated[int, Field(ge=1)]] = Field([64, 32, 16], min_length=1, description="Widths of its layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of a layer's numbers left out in training")
    learning_rate: float = Field(0.003, gt=0, description="Step of Adam, on the layers")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled, on the layers; the vectors' is that of retrieval")


class IALS(Section):
    """Implicit alternating least squares: users are solved for with items fixed, then items with users fixed."""

    sweeps: int = Field(12, ge=1, description="Sweeps over users and items at most; in place of epochs")
    refit_sweeps: int = Field(
        3, ge=0, description="Sweeps of the refit at each later cut, in place of refit_epochs; 0: begin anew there"
    )
    unobserved_weight: float = Field(
        0.1, gt=0, description="Weight of every pair of user and item, there or not, beside 1 for an event of weight 1"
    )
    regularization: float = Field(0.003, gt=0, description="L2 on a vector, before it is scaled")
    frequency_power: float = Field(
        1.0,
        ge=0,
        description="It is scaled by (weight of the row's pairs + unobserved_weight × rows of the other side) to this "
        "power; 0: alike for all",
    )
    cg_steps: int = Field(3, ge=1, description="Steps of conjugate gradients for a row, from what it was")
    init_std: float = Field(
        0.1, gt=0, description="Standard deviation of the first vectors, times the root of their length"
    )


class Retrieval(Training):
    """The model that finds candidates."""

    model: Literal["mf", "neumf"] = Field(
        "mf",
        description="Matrix factorization; or NeuMF, which has no vectors: no stage after train-retrieval takes it",
    )
    neumf: NeuMF = NeuMF()
    fit: Literal["gradient", "ials"] = Field(
        "gradient",
        description="How matrix factorization is fitted: by steps along the gradient of a loss; or by implicit "
        "alternating least squares, which has its own settings in ials and looks at no others of the loss, its "
        "negatives, its biases or its optimizer",
    )
    ials: IALS = IALS()

    epochs: int = Field(3, ge=1, description="Passes over the examples at most")
    refit_epochs: int = Field(
        1,
        ge=0,
        description="Passes of the refit at each later cut, on from the one before; 0: begin anew there, "
        "with as many passes as were best at the first cut",
    )
    learning_rate: float = Field(0.01, gt=0, description="Step of the optimizer, on the rows of a batch")
    optimizer: Literal["adam", "rowwise_adagrad", "sgd"] = Field(
        "adam",
        description="On the rows of a batch: lazy Adam; Adagrad with one number of state a row; or plain gradient "
        "descent, whose learning_rate is that of a pair, however many a batch holds",
    )
    dim: int = Field(64, ge=1, description="Length of the vectors")
    loss: Literal["softmax", "bce", "squared", "bpr"] = Field(
        "softmax", description="Each user's items against shared ones: softmax, logistic, squared or one by one"
    )
    negatives: int = Field(
        384, ge=0, description="Items that a batch shares as negatives; 0: the whole catalogue, evenly"
    )
    negative_power: float = Field(
        0.5, ge=0, le=2, description="A number of them is drawn by popularity to this power; 0: evenly"
    )
    uniform_share: float = Field(0.0, ge=0, le=1, description="Share of that number that is drawn evenly instead")
    in_batch: bool = Field(False, description="The items of a batch's pairs are negatives of its other users too")
    negative_weight: float = Field(8.0, gt=0, description="For bce and squared: negatives that go with a positive")
    temperature: float | None = Field(
        None, gt=0, description="Score by cosine over this temperature; without it by the dot product"
    )
    history: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a user's vector that is the mean of his items' vectors (needs features.whole_users)",
    )
    history_power: float = Field(
        0.0, ge=0, description="An item counts in that mean less by its events to this power (.5: as in LightGCN)"
    )
    bias: bool = Field(True, description="Score items by a bias too, which begins with their popularity")
    user_bias: bool = Field(
        False,
        description="For bce and squared: users have a bias too, which frees their vectors of how much they take, and "
        "weight_decay is for all biases as for vectors",
    )
    half_life_days: float = Field(120.0, gt=0, description="Age at which an event counts half in training")
    weight_decay: float = Field(0.015, ge=0, description="L2 on the vectors of a batch")
    init_std: float = Field(0.01, gt=0, description="Standard deviation of the first vectors")
    shard_users: bool = Field(
        True,
        description="Each rank holds the vectors of its own users only and reads their examples: no user vector goes "
        "from rank to rank. Without it all ranks hold all users",
    )
    validation_users: int = Field(2_000, ge=1, description="Users of the validation ranking, at most")
    validation_k: int = Field(100, ge=1, description="Length of the lists of the validation ranking")
    stop_on: Literal["ndcg_new", "recall_new"] = Field(
        "ndcg_new", description="Validation figure that chooses the number of epochs"
    )

    @model_validator(mode="after")
    def _neumf_has_no_cosine_and_no_history(self) -> Retrieval:
        if self.model == "neumf" and self.temperature is not None:
            raise ValueError("temperature: NeuMF's score is no cosine; leave it out, or choose model: mf")
        if self.model == "neumf" and self.history:
            raise ValueError("history: NeuMF's users have vectors of their own only; leave it out, or choose model: mf")
        return self

    @model_validator(mode="after")
    def _user_bias_is_for_losses_of_one_pair(self) -> Retrieval:
        if self.user_bias and (self.loss not in ("bce", "squared") or self.model != "mf" or self.fit != "gradient"):
            raise ValueError(
                "user_bias: it is for matrix factorization along the gradient of bce or squared; where items are "
                "compared with each other, it counts in both"
            )
        return self

    @model_validator(mode="after")
    def _neumf_has_layers(self) -> Retrieval:
        if self.model == "neumf" and self.optimizer == "sgd":
            raise ValueError("optimizer: sgd is for matrix factorization; NeuMF's layers want adam or rowwise_adagrad")
        return self

    @model_validator(mode="after")
    def _ials_is_for_plain_products(self) -> Retrieval:
        if self.fit != "ials":
            return self
        refused = {
            "model": (self.model != "mf", "least squares are for matrix factorization; leave it at mf"),
            "temperature": (self.temperature is not None, "least squares are of the dot product, not of a cosine"),
            "history": (self.history > 0, "least squares have no mean of a user's items in his vector"),
            "loss": (self.loss not in ("softmax", "squared"), "the loss is squared, over the whole catalogue"),
            "in_batch": (self.in_batch, "there are no batches; the whole catalogue is each user's negatives"),
            "shard_users": (not self.shard_users, "each rank solves for its own users; leave it at true"),
        }
        for name, (given, reason) in refused.items():
            if given:
                raise ValueError(f"{name}: {reason}; or choose fit: gradient")
        return self

    def in_passes(self) -> Retrieval:
        """The same, with ``epochs`` and ``refit_epochs`` those of the way it is fitted."""
        if self.fit == "gradient":
            return self
        return self.model_copy(update={"epochs": self.ials.sweeps, "refit_epochs": self.ials.refit_sweeps})


class Labels(Section):
    """What the ranker learns from."""

    kind: Literal["candidates", "given"] = Field(
        "candidates",
        description="candidates: which items of the retrieval model, or of the user's own, were taken in the label "
        "windows. given: events with a value (input.interactions.value), which says how the user liked the item",
    )
    positive_from: float = Field(
        0.5, description="Of kind given: least value of a positive; the default reads a column of 0 and 1"
    )
    negative_to: float | None = Field(
        None,
        description="Of kind given: greatest value of a negative; events between the two are no examples. "
        "By default all that is no positive is a negative",
    )

    @model_validator(mode="after")
    def _negatives_lie_below(self) -> Labels:
        if self.negative_to is not None and self.negative_to >= self.positive_from:
            raise ValueError(f"negative_to ({self.negative_to}) must be below positive_from ({self.positive_from})")
        return self


class Ranker(Training):
    """DeepFM over the candidates, or over the labels given."""

    batch_size: int = Field(1024, ge=1, description="Rows of one rank's step")
    epochs: int = Field(3, ge=1, description="Passes over the examples at most")
    learning_rate: float = Field(0.002, gt=0, description="Step of AdamW")
    dim: int = Field(8, ge=1, description="Length of a field's embedding")
    hidden: list[Annotated[int, Field(ge=1)]] = Field([128, 64], description="Widths of the deep part's layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="Of the deep part's hidden units")
    embedding_dropout: float = Field(0.0, ge=0, lt=1, description="Of the numbers of the fields' embeddings")
    embedding_optimizer: Literal["adamw", "lazy_adam", "rowwise_adagrad"] = Field(
        "adamw", description="AdamW over whole embedding tables, or an optimizer of the rows of a batch, for large ones"
    )
    embedding_learning_rate: float | None = Field(
        None, gt=0, description="Step of the rows of a batch; null: learning_rate"
    )
    buckets: int = Field(16, ge=2, description="Quantile buckets of a pair feature")
    embedding_decay: float = Field(10.0, ge=0, description="Decoupled weight decay of the embeddings")
    id_l2: float = Field(0.0, ge=0, description="L2 on the vectors of ids, once for each row of a batch that uses one")
    deep_decay: float = Field(0.1, ge=0, description="Decoupled weight decay of the deep part")
    ids: list[Literal["user", "item"]] = Field([], description="Ids that are fields of the model, as the features are")
    pair_features: bool = Field(
        True,
        description="Learn from the features of a pair too, such as how often the user had the item. Without them, and "
        "where labels are given, the model can order a whole catalogue (score.over)",
    )
    refit: bool = Field(True, description="Fit anew on the validation part too, once the number of passes is chosen")
    negative_share: float = Field(0.15, gt=0, le=1, description="Share of the unlabelled candidates that is kept")
    hard_negatives: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Part of that share that is the top of the retrieved list; the rest is drawn evenly",
    )
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The model that is validated and kept is a moving average over the steps, with so much of it kept "
        "at each (0.998: about 500 steps); 0: the weights as they are",
    )
    bf16: bool = Field(False, description="Products in bfloat16, on a GPU only")
    stop_on: Literal["logloss", "auc"] = Field(
        "logloss", description="Validation figure that chooses the number of epochs"
    )


class Evaluate(Section):
    """Offline figures on the test window."""

    ks: list[Annotated[int, Field(ge=1)]] = Field([10, 20, 100], min_length=1, description="List lengths")
    max_users: int = Field(50_000, ge=1, description="Users that are ranked; a stable sample where there are more")
    neighbours: int = Field(50, ge=1, description="Neighbours of an item in the ItemKNN row")
    half_life_days: float = Field(90.0, gt=0, description="Half-life of the decayed repeat-purchase row")


class Score(Section):
    """The published lists."""

    n: int = Field(20, ge=1, description="Rows a user gets")
    by: Literal["ranker", "retrieval"] = Field(
        "ranker", description="Whose order is published: DeepFM's over the candidates, or the retrieval model's alone"
    )
    over: Literal["candidates", "catalogue"] = Field(
        "candidates",
        description="What DeepFM orders: the candidates, or every item that may be shown, which needs a ranker without "
        "pair features",
    )
    explain: bool = Field(
        True,
        description="Name, in the reason of a new item, the user's own item whose vector is nearest",
    )

    @model_validator(mode="before")
    @classmethod
    def _repeats_is_a_rule(cls, tree: object) -> object:
        if isinstance(tree, dict) and "repeats" in tree:
            raise ValueError("repeats is rules.hide_seen now: 'none' for repeats true, 'all' (the default) for false")
        return tree


class Publish(Section):
    """Checks before readers see the new lists."""

    min_users_share: float = Field(
        0.8, ge=0, le=1, description="Users of the new table, against the table published before it, at least"
    )


class Report(Section):
    """The night's page."""

    examples: int = Field(5, ge=0, description="Users whose lists are shown")
