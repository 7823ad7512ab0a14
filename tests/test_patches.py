"""Patches hold every tick once, and what is said of them goes back to the ticks."""

import pytest
import torch

from tests.builders import random_inputs, tiny_network
from tft.patches import attention_to_ticks, in_patches, weights_of_ticks


def test_every_tick_lies_in_its_place() -> None:
    """The last patch ends with the last tick; what is missing at the start is 0."""
    past = torch.arange(1.0, 21.0).view(1, 5, 2, 2)  # [B, T, V, C]
    patches = in_patches(past, torch.ones(1, 5, dtype=torch.bool), None, 3)
    assert patches.past.shape == (1, 2, 2, 6)
    assert torch.equal(patches.past[0, 1, 0], past[0, 2:, 0].flatten())
    assert torch.equal(patches.past[0, 0, 1], torch.cat([torch.zeros(2), past[0, :2, 1].flatten()]))
    assert patches.seen.all() and patches.length is None


def test_nothing_before_a_history_is_read() -> None:
    past = torch.full((2, 6, 1, 1), torch.nan)
    past[0], past[1, 4:] = 1.0, 1.0
    seen = past.isfinite()[..., 0, 0]
    patches = in_patches(past, seen, torch.tensor([6, 2]), 4)
    assert patches.past[1].flatten().tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert patches.seen.tolist() == [[True, True], [False, True]]
    assert patches.length is not None and patches.length.tolist() == [2, 1]


def test_attention_goes_to_seen_ticks_alone() -> None:
    seen = torch.tensor([[True, True, False, True, False]])  # of T = 6, the oldest cut off
    attention = torch.tensor([[[0.3, 0.5, 0.2]]])  # patches of 3, and a horizon of 1
    by_tick = attention_to_ticks(attention, seen, 3, 6)
    expected = torch.tensor([0.0, 0.15, 0.15, 0.0, 0.5, 0.0, 0.2])
    torch.testing.assert_close(by_tick[0, 0], expected)


def test_ticks_have_their_patchs_weights() -> None:
    weights = torch.tensor([[[1.0], [2.0]]])
    assert weights_of_ticks(weights, 2, 3).flatten().tolist() == [1, 2, 2]
    assert weights_of_ticks(weights, 2, 5).flatten().tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("patch", [2, 7, 10])
def test_all_ticks_of_a_patch_matter(patch: int) -> None:
    """A forecast depends on every tick of the context, wherever in its patch it lies."""
    network, inputs = tiny_network(patch_length=patch), random_inputs(1, 7, 2)
    inputs.past.requires_grad_()
    network(inputs).quantiles.sum().backward()
    assert inputs.past.grad is not None and inputs.past.grad.abs().amin((0, 2, 3)).min() > 0
