"""Two ways to sort."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tft.order import ascending, count_below, places_in_order


@given(st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_numpy_sorts_as_pytorch_does(given_values: list[float]) -> None:
    values = torch.tensor([given_values, given_values[::-1]])
    torch.testing.assert_close(
        ascending(values), values.sort(-1).values, rtol=0, atol=0, equal_nan=True
    )


@given(st.lists(st.sampled_from([-1e30, -2.5, -0.0, 0.0, 1e-38, 3.0, 3.0, float("inf")])))
def test_equal_values_stay_as_they_come(given_values: list[float]) -> None:
    """Or two processors would forecast differently. -0.0 equals 0.0."""
    values = torch.tensor([given_values, given_values[::-1]])
    assert torch.equal(places_in_order(values), values.sort(dim=-1, stable=True).indices)
    assert torch.equal(places_in_order(values.double()), places_in_order(values))


@given(st.lists(st.floats(width=32), min_size=1, max_size=300))
def test_places_are_those_of_a_stable_sort(given_values: list[float]) -> None:
    values = torch.tensor([given_values]).nan_to_num(7.0, torch.inf, -torch.inf)
    assert torch.equal(places_in_order(values), values.sort(dim=-1, stable=True).indices)


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(-1, 10)))
def test_values_below_are_counted(rows: list[int], limits: list[int]) -> None:
    ordered, at = torch.tensor([sorted(rows)]), torch.tensor([limits])
    expected = [[sum(value < limit for value in rows) for limit in limits]]
    assert count_below(ordered, at).tolist() == expected


def test_what_is_to_be_differentiated_is_sorted_by_pytorch() -> None:
    values = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    ascending(values)[0].backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]
