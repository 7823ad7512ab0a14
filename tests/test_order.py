"""Two ways to sort."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tft.order import ascending


@given(st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_numpy_sorts_as_pytorch_does(given_values: list[float]) -> None:
    values = torch.tensor([given_values, given_values[::-1]])
    torch.testing.assert_close(
        ascending(values), values.sort(-1).values, rtol=0, atol=0, equal_nan=True
    )


def test_what_is_to_be_differentiated_is_sorted_by_pytorch() -> None:
    values = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    ascending(values)[0].backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]
