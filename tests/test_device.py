"""Where and how exactly to compute."""

import pytest
import torch

from train.device import choose_device, deterministic_kernels


def test_deterministic_kernels_are_wanted_or_not() -> None:
    for wanted in (False, True):
        with deterministic_kernels(wanted):
            assert torch.are_deterministic_algorithms_enabled() is wanted
        assert not torch.are_deterministic_algorithms_enabled(), "no flag is left behind"


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device = 'tpu': expected one of auto, cpu, cuda"):
        choose_device("tpu")
