"""Inputs of a network's shapes, for benchmarks that look at the network alone."""

import torch

from tft.model import TFTConfig, TFTInputs


def random_inputs(
    config: TFTConfig,
    batch: int,
    context: int,
    horizon: int,
    device: torch.device | str = "cpu",
) -> TFTInputs:
    """Return inputs of the network's shapes."""
    naive = (batch, horizon, config.num_targets, config.num_naive, len(config.quantiles))
    codes = [torch.randint(n, (batch,)) for n in config.static_cardinalities]
    return TFTInputs(
        past=torch.randn(batch, context, config.num_past, config.past_channels).to(device),
        future=torch.randn(batch, horizon, config.num_future, config.future_channels).to(device),
        static_reals=torch.randn(batch, config.num_static_reals, config.static_channels).to(device),
        static_codes=torch.stack(codes, dim=1).to(device),
        naive=torch.randn(naive).sort(-1).values.to(device) if config.num_naive else None,
        naive_seen=torch.rand(batch, *naive[2:4]).to(device) if config.num_naive else None,
    )
