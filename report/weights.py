"""What a forecast looked at: selection weights by variable, and attention by lag.

B windows, T context, H horizon, L = T + H, V variables of all groups.
"""

import torch
from torch import Tensor

from tft.forecaster import future_names, past_names, static_names
from tft.model import TFTOutput
from tft.schema import FeatureSchema


def variable_names(schema: FeatureSchema) -> dict[str, tuple[str, ...]]:
    """Name the network's variables by group, in the network's order."""
    return {
        "past": past_names(schema),
        "future": future_names(schema),
        "static": static_names(schema),
    }


def selection_weights(seen: Tensor, output: TFTOutput) -> Tensor:
    """Return windows' selection weights [B, V], past, future, static; each group sums to 1.

    Args:
        seen: [B, T] ticks that hold a value; others do not count.
        output: of a forward pass that was asked for its weights.
    """
    assert output.past_weights is not None and output.future_weights is not None
    assert output.static_weights is not None
    ticks = seen.sum(1, keepdim=True).clamp(min=1)
    past = (output.past_weights * seen.unsqueeze(-1)).sum(1) / ticks
    return torch.cat([past, output.future_weights.mean(1), output.static_weights], dim=1)


def share_on_history(seen: Tensor, attention: Tensor) -> Tensor:
    """Return the share [B, 1] of attention [B, H, L] on the context `seen` [B, T]."""
    return attention[..., : seen.shape[1]].sum(-1).mean(1, keepdim=True)


def beside_even(attention: Tensor, even: Tensor) -> Tensor:
    """Divide attention [B, H, L] by an even one; 0 where no step may look."""
    return torch.where(even > 0, attention / even, 0.0)


def history_by_lag(attention: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the attention ticks of history get, by how many ticks later the asking step is.

    1 is as much as a step that looks at all of its history alike gives the tick: steps far ahead
    share their attention with more steps, and reach other lags.

    Args:
        attention: [B, H, L].
        even: [B, H, L] what it would be if a step looked everywhere alike; 0 where it may not.

    Returns:
        By lag [B, L]: sums, and the pairs of step and tick they are of.
    """
    B, H, L = attention.shape
    T = L - H
    past, alike = attention[..., :T], even[..., :T]
    tiny = torch.finfo(attention.dtype).tiny
    share, alike_share = (each.sum(-1, keepdim=True).clamp(min=tiny) for each in (past, alike))
    relative = beside_even(past / share, alike / alike_share)
    step, tick = torch.arange(H).unsqueeze(1), torch.arange(T)
    lag = (T + step - tick).flatten().to(past.device)  # [H * T] ticks from key to query
    sums, pairs = (attention.new_zeros(B, L) for _ in range(2))
    sums.index_add_(1, lag, relative.flatten(1))
    pairs.index_add_(1, lag, (alike > 0).to(pairs.dtype).flatten(1))
    return sums, pairs
