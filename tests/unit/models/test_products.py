"""Products by oneDNN against sums in float64, on both sides of every bound, and without oneDNN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys_spark.models import products
from recsys_spark.models.products import (
    Layers,
    Linear,
    add_product_of_columns,
    product,
    product_of_columns,
)

# rows a multiple of 256, of 16 and of neither, more and fewer outputs than inputs, few of them, an odd number of
# inputs, and too little work for oneDNN
SHAPES = [
    (512, 64, 96), (509, 65, 96), (509, 96, 65), (257, 512, 64), (4_096, 129, 8), (4_096, 129, 7), (16, 512, 512),
    (250, 64, 256), (17, 512, 512), (24, 5, 6), (1, 3, 2), (1, 2_048, 2_048)
]  # fmt: skip
needs_onednn = pytest.mark.skipif(not products.available(), reason="this torch has no oneDNN")


@pytest.fixture(params=["oneDNN", "torch"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with oneDNN and without it."""
    way: str = request.param
    if way == "torch":
        monkeypatch.setattr(products, "available", lambda: False)
    return way


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=draw) for shape in shapes]


def near(found: Tensor, expected: Tensor, summed: int) -> None:
    """Equal but for the rounding of so many float32 products of about 1."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=5e-6 * summed**0.5)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_products_are_those_of_float64(by: str, rows: int, inputs: int, outputs: int) -> None:
    left, right, bias, of_output = drawn((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    plain = left.double() @ right.double().T
    near(product(left, right), plain, inputs)
    near(product(left, right, bias), plain + bias.double(), inputs)
    near(product(left, right.T.contiguous().T), plain, inputs)  # columns lie together
    columns = of_output.double().T @ left.double()
    near(product_of_columns(of_output, left), columns, rows)
    total = torch.ones(outputs, inputs)
    add_product_of_columns(total, of_output, left)
    near(total, columns + 1.0, rows)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_layer_is_torchs(by: str, rows: int, inputs: int, outputs: int, bias: bool, relu: bool) -> None:
    given, gradient = drawn((rows, inputs), (rows, outputs))
    layer = Linear(inputs, outputs, bias=bias)
    other = nn.Linear(inputs, outputs, bias=bias).double()
    other.load_state_dict(layer.state_dict())
    mine, theirs = given.requires_grad_(), given.detach().double().requires_grad_()
    found, expected = layer.followed(mine, relu), other(theirs)
    gradient = gradient * (expected.abs() > 1e-4)  # a ReLU's gradient at rounding's distance from 0 may be either
    found.backward(gradient)
    (expected.relu() if relu else expected).backward(gradient.double())
    near(found.detach(), (expected.relu() if relu else expected).detach(), inputs)
    for of_mine, of_other in zip(layer.parameters(), other.parameters(), strict=True):
        assert of_mine.grad is not None
        assert of_other.grad is not None
        near(of_mine.grad, of_other.grad, rows)
    assert mine.grad is not None
    assert theirs.grad is not None
    near(mine.grad, theirs.grad, outputs)


def test_layers_are_a_sequence_of_torchs(by: str) -> None:
    torch.manual_seed(1)
    parts = [nn.Dropout(0.0), Linear(40, 64), nn.ReLU(), nn.Dropout(0.3), Linear(64, 64), nn.ReLU(), Linear(64, 1)]
    ours, plain = Layers(*parts), nn.Sequential(*parts)
    assert list(ours.state_dict()) == list(plain.state_dict())
    given = drawn((32, 33, 40))[0]
    for training in (True, False):
        ours.train(training)
        torch.manual_seed(2)
        found = ours(given)
        torch.manual_seed(2)
        assert found.shape == (32, 33, 1)
        torch.testing.assert_close(found, plain(given), rtol=1e-5, atol=1e-6)


def test_a_relu_that_follows_no_linear_layer_is_kept() -> None:
    layers = Layers(nn.Dropout(0.0), nn.ReLU(), Linear(3, 4), nn.Dropout(0.0), nn.ReLU(), nn.ReLU())
    given = drawn((5, 3))[0]
    assert torch.equal(layers(given), nn.Sequential(*layers)(given))
    assert float(layers(given).detach().amin()) == 0.0


@needs_onednn
def test_a_layers_gradient_may_be_left_out() -> None:
    """The first layer of a network needs none of its inputs, a frozen one none of its weights."""
    given = drawn((512, 64))[0]
    layer = Linear(64, 96)
    layer(given).sum().backward()
    assert given.grad is None
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    given.requires_grad_()
    layer(given).sum().backward()
    torch.testing.assert_close(given.grad, layer.weight.sum(0).expand(512, 64), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_other_numbers_go_torchs_way() -> None:
    given, weight = drawn((512, 64), (96, 64))
    assert torch.equal(product(given.double(), weight.double()), given.double() @ weight.double().T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(given, weight).dtype == torch.bfloat16


@needs_onednn
def test_the_same_product_twice_is_the_same_to_the_bit() -> None:
    left, right, of_output = drawn((512, 65), (96, 65), (512, 96))
    assert torch.equal(product(left, right), product(left.clone(), right.clone()))
    assert torch.equal(product_of_columns(of_output, left), product_of_columns(of_output.clone(), left.clone()))


@needs_onednn
def test_there_are_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps code for each: batches of any length must not fill the memory with it."""
    shapes: set[int] = set()

    def noted(left: Tensor, *more: Any) -> Tensor:
        shapes.add(len(left))
        return plain(left, *more)

    plain = products._by_onednn
    monkeypatch.setattr(products, "_by_onednn", noted)
    weight, given = drawn((80, 64), (3_000, 64))
    for rows in range(1, 3_000, 7):
        product(given[:rows], weight)
        product(given[:rows], weight[:40])
    assert shapes <= {*range(16, 256, 16), *range(256, 3_100, 256)}
    assert len(shapes) >= 11


@pytest.mark.parametrize("rows", [512, 400, 300])
def test_what_is_not_a_number_stays_so(rows: int) -> None:
    """Behind a ReLU too, so that a broken model is not taken for a sound one."""
    for inputs, outputs in ((64, 96), (96, 64)):
        given, layer = drawn((rows, inputs))[0], Linear(inputs, outputs)
        given[0], given[-1] = torch.nan, torch.inf
        for relu in (False, True):
            found, expected = layer.followed(given, relu).detach(), layer(given).detach()
            expected = expected.relu() if relu else expected
            assert bool(found[0].isnan().all())
            torch.testing.assert_close(found, expected, equal_nan=True)


@needs_onednn
def test_a_second_derivative_is_refused() -> None:
    given = drawn((512, 64))[0].requires_grad_()
    (gradient,) = torch.autograd.grad(Linear(64, 96)(given).square().sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
