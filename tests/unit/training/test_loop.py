from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys_spark.config import Training
from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints, Saved
from recsys_spark.training.collective import Alone
from recsys_spark.training.loop import best_epoch, fit

STEPS = 3


class Noise:
    """Stream of random batches that follow from the epoch."""

    batch_size = 4

    def __init__(self, given: int = STEPS, **said: Any) -> None:
        self.given = given
        self.said = {"batch_size": 4, "seed": 1, "digest": "a", "ranks": 1, **said}

    def __len__(self) -> int:
        return STEPS

    def epoch(self, epoch: int, shuffle: bool = True, skip: int = 0) -> Generator[dict[str, Tensor], None, None]:
        draw = torch.Generator().manual_seed(epoch)
        for step in range(self.given):
            batch = {"x": torch.randn(self.batch_size, 2, generator=draw)}
            if step >= skip:
                yield batch

    def describe(self) -> dict[str, Any]:
        return self.said


class Tiny:
    """A linear fit by Adam with dropout-like noise, and validation figures as they are given."""

    metric = "score"

    def __init__(self, scores: list[float], fail_at: int | None = None) -> None:
        torch.manual_seed(5)
        self.model = torch.nn.Linear(2, 1)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.draw = torch.Generator()
        self.scores, self.fail_at = scores, fail_at
        self.steps, self.epoch = 0, -1
        self.progress: list[float] = []
        self.after: list[dict[str, Tensor]] = []

    def begin(self, epoch: int) -> None:
        self.epoch = epoch
        self.draw.manual_seed(epoch)

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        self.progress.append(progress)
        self.steps += 1
        if self.steps == self.fail_at:
            return math.nan, 4.0
        noise = torch.rand(4, 2, generator=self.draw)
        loss = (self.model(batch["x"] * noise) - batch["x"].sum(1, keepdim=True)).square().sum()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return float(loss.detach()), 4.0

    def generators(self) -> dict[str, torch.Generator]:
        return {"noise": self.draw}

    def validate(self) -> dict[str, float]:
        self.after.append({k: v.clone() for k, v in self.weights().items()})
        return {"other": -self.scores[self.epoch], "score": self.scores[self.epoch]}

    def weights(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict()}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        self.model.load_state_dict(weights)
        if state is not None:
            self.adam.load_state_dict(state["adam"])


def checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(Storage(str(folder)), "c", keep=2)


def newest(folder: Path) -> Saved:
    found = checkpoints(folder).newest(Alone())
    assert found is not None
    return found


def run(
    task: Tiny, folder: Path, epochs: int = 8, patience: int = 2, exactly: int | None = None,
    stream: Noise | None = None, minutes: float = 10.0,
) -> list[dict[str, float]]:  # fmt: skip
    points: list[tuple[str, int]] = []
    settings = Training(epochs=epochs, learning_rate=0.1, patience=patience, checkpoint_minutes=minutes)
    curve = fit(
        task, stream or Noise(), Alone(), settings, checkpoints(folder),
        lambda tag, step, **values: points.append((tag, step)), "tiny", exactly,
    )  # fmt: skip
    assert [step for _, step in points] == sorted({step for _, step in points})
    return curve


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def figures(curve: list[dict[str, float]]) -> list[tuple[float, float, float]]:
    return [(point["epoch"], point["loss"], point["score"]) for point in curve]


def test_it_stops_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    task = Tiny([0.1, 0.3, 0.2, 0.3, 0.9])
    curve = run(task, tmp_path)
    assert [point["score"] for point in curve] == [0.1, 0.3, 0.2, 0.3]
    assert [point["other"] for point in curve] == [-0.1, -0.3, -0.2, -0.3]
    assert [point["epoch"] for point in curve] == [1, 2, 3, 4]
    assert best_epoch(curve, "score") == 2
    assert_equal(task.weights(), task.after[1])


def test_it_ends_after_the_last_epoch(tmp_path: Path) -> None:
    task = Tiny([0.1, 0.2, 0.3])
    assert len(run(task, tmp_path, epochs=3)) == 3
    assert_equal(task.weights(), task.after[2])
    assert task.progress == pytest.approx([i / 9 for i in range(9)])


def test_an_exact_number_of_epochs_does_not_choose(tmp_path: Path) -> None:
    task = Tiny([0.9, 0.5, 0.4, 0.3, 0.2])
    assert len(run(task, tmp_path, epochs=1, patience=1, exactly=5)) == 5
    assert_equal(task.weights(), task.after[4])


@pytest.mark.parametrize("minutes", [10.0, 1e-9], ids=["after epochs", "after steps too"])
@pytest.mark.parametrize("killed_at", [1, 4, 5, 6, 9])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, killed_at: int, minutes: float) -> None:
    """Killed at any step; before, at and after the best epoch."""
    scores = [0.1, 0.5, 0.2, 0.3, 0.3]
    whole = Tiny(scores)
    expected = run(whole, tmp_path / "whole", patience=3)
    with pytest.raises(RecsysError):
        run(Tiny(scores, fail_at=killed_at), tmp_path / "killed", patience=3, minutes=minutes)
    resumed = Tiny(scores)
    assert figures(run(resumed, tmp_path / "killed", patience=3)) == figures(expected)
    saved = killed_at - 1 if minutes < 1 else (killed_at - 1) // STEPS * STEPS
    assert resumed.steps == whole.steps - saved
    assert_equal(resumed.weights(), whole.weights())
    states = [newest(tmp_path / name).common() for name in ("whole", "killed")]
    assert_equal(*(state["weights"] for state in states))
    for one, other in zip(*(state["state"]["adam"]["state"].values() for state in states), strict=True):
        assert_equal(one, other)


def test_randomness_of_torch_itself_goes_on_too(tmp_path: Path) -> None:
    def fit_with_dropout(folder: str, fail_at: int | None = None) -> dict[str, Tensor]:
        task = Tiny([0.1, 0.2], fail_at)
        begin = task.begin

        def begin_with_torch(epoch: int) -> None:
            begin(epoch)
            torch.manual_seed(epoch)

        task.begin = begin_with_torch  # type: ignore[method-assign]
        task.model = torch.nn.Sequential(torch.nn.Dropout(0.5), task.model)  # type: ignore[assignment]
        run(task, tmp_path / folder, epochs=2, minutes=1e-9)
        return task.weights()

    expected = fit_with_dropout("whole")
    with pytest.raises(RecsysError):
        fit_with_dropout("killed", fail_at=STEPS + 3)
    assert_equal(fit_with_dropout("killed"), expected)


@pytest.mark.parametrize("change", [{"batch_size": 8}, {"seed": 2}, {"digest": "other"}])
def test_another_stream_is_refused_with_both_values(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RecsysError):
        run(Tiny([0.1, 0.2], fail_at=STEPS + 1), tmp_path)
    (name, value), before = *change.items(), Noise().describe()
    with pytest.raises(RecsysError, match=f"{name} was {before[name]!r}, now it is {value!r}"):
        run(Tiny([0.1, 0.2]), tmp_path, stream=Noise(**change))
    resumed = Tiny([0.1, 0.2])
    run(resumed, tmp_path, epochs=2)  # the refused run has harmed nothing
    assert resumed.steps == STEPS


@pytest.mark.parametrize(("fail_at", "epochs"), [(STEPS + 3, 1), (3, 0)])
def test_with_other_ranks_an_epoch_begins_anew(
    tmp_path: Path, fail_at: int, epochs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecsysError):
        run(Tiny([0.1, 0.2], fail_at), tmp_path, minutes=1e-9)
    assert newest(tmp_path).facts["batches"] == 2
    resumed = Tiny([0.1, 0.2])
    curve = run(resumed, tmp_path, epochs=2, stream=Noise(ranks=3))
    assert "it is from within an epoch of 1 rank(s), now there are 3" in capsys.readouterr().out
    assert resumed.steps == (2 - epochs) * STEPS
    assert len(curve) == 2


def test_best_weights_that_are_torn_are_trained_again(tmp_path: Path) -> None:
    scores = [0.1, 0.5, 0.2, 0.3]
    whole = Tiny(scores)
    run(whole, tmp_path / "whole")
    with pytest.raises(RecsysError):
        run(Tiny(scores, fail_at=3 * STEPS + 1), tmp_path / "killed")
    best = next((tmp_path / "killed" / "c").glob(f"step-*{2 * STEPS + 2}/common.pt"))
    best.write_bytes(best.read_bytes()[:-1])
    resumed = Tiny(scores)
    run(resumed, tmp_path / "killed")
    assert resumed.steps == whole.steps  # only the last two epochs were kept, and both need the second
    assert_equal(resumed.weights(), whole.weights())


def test_a_finished_run_is_only_read_back(tmp_path: Path) -> None:
    first, again = Tiny([0.3, 0.2, 0.1]), Tiny([0.3, 0.2, 0.1])
    curve = run(first, tmp_path)
    assert run(again, tmp_path) == curve
    assert again.steps == 0
    assert_equal(again.weights(), first.weights())


def test_a_loss_that_is_not_finite_is_told_and_the_checkpoint_stays(tmp_path: Path) -> None:
    with pytest.raises(RecsysError) as error:
        run(Tiny([0.1, 0.2], fail_at=STEPS + 2), tmp_path)
    assert str(error.value).startswith("rank 0, tiny epoch 2, step 2: the loss is nan")
    found = newest(tmp_path).common()
    assert len(found["curve"]) == 1
    assert all(tensor.isfinite().all() for tensor in found["weights"].values())


@pytest.mark.parametrize("given", [STEPS - 1, STEPS + 1])
def test_another_number_of_batches_than_promised(tmp_path: Path, given: int) -> None:
    with pytest.raises(RuntimeError, match="the stream gave"):
        run(Tiny([0.1]), tmp_path, stream=Noise(given))


def test_the_loss_is_the_weighted_mean(tmp_path: Path) -> None:
    task = Tiny([0.1])
    losses: list[float] = []
    step = task.step

    def noted(batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        found = step(batch, progress)
        losses.append(found[0])
        return found

    task.step = noted  # type: ignore[method-assign]
    (point,) = run(task, tmp_path, epochs=1)
    assert point["loss"] == pytest.approx(sum(losses) / (4 * STEPS))


@pytest.mark.parametrize(("scores", "best"), [([1, 2, 3], 3), ([3, 3, 1], 1), ([-1, -2], 1)])
def test_the_first_of_equal_epochs_is_the_best(scores: list[float], best: int) -> None:
    assert best_epoch([{"score": score} for score in scores], "score") == best
