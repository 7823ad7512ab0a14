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


def may_look(seen: Tensor, horizon: int) -> Tensor:
    """Tell which ticks each step may look at, [B, H, L]: of the context only those `seen`."""
    ahead = torch.ones(horizon, horizon, dtype=torch.bool, device=seen.device).tril()
    context = seen.unsqueeze(1).expand(-1, horizon, -1)
    return torch.cat([context, ahead.expand(len(seen), -1, -1)], dim=-1)


def history_by_lag(seen: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the attention ticks of history get, by how many ticks later the asking step is.

    1 is as much as the step's ticks of history get on average: steps far ahead share theirs with
    more steps, and reach other lags.

    Args:
        seen: [B, T] ticks of the context that may be looked at.
        attention: [B, H, L].

    Returns:
        By lag [B, L]: sums, and the pairs of step and tick they are of.
    """
    T, H = seen.shape[1], attention.shape[1]
    past = attention[..., :T]
    share = past.sum(-1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
    relative = past / share * seen.sum(1)[:, None, None]
    looks = seen.unsqueeze(1).expand(-1, H, -1).to(attention.dtype)
    step, tick = torch.arange(H).unsqueeze(1), torch.arange(T)
    lag = (T + step - tick).flatten().to(seen.device)  # [H * T] ticks from key to query
    sums, pairs = (attention.new_zeros(len(seen), T + H) for _ in range(2))
    sums.index_add_(1, lag, relative.flatten(1))
    pairs.index_add_(1, lag, looks.flatten(1))
    return sums, pairs
