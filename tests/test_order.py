"""Two ways to sort."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tft.order import ascending, ascending_places

numbers = st.lists(st.floats(width=32), min_size=1, max_size=30)


@given(numbers)
def test_numpy_sorts_as_pytorch_does(given_values: list[float]) -> None:
    values = torch.tensor([given_values, given_values[::-1]])
    expected = values.sort(-1).values
    assert torch.equal(ascending(values).nan_to_num(nan=-1.0), expected.nan_to_num(nan=-1.0))
    placed = values.gather(-1, ascending_places(values))
    assert torch.equal(placed.isnan(), expected.isnan())
    assert torch.equal(placed.nan_to_num(nan=-1.0), expected.nan_to_num(nan=-1.0))


@pytest.mark.parametrize(
    "sort", [ascending, lambda values: values.gather(-1, ascending_places(values))]
)
def test_what_is_to_be_differentiated_is_sorted_by_pytorch(sort) -> None:
    values = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    sort(values)[0].backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]
