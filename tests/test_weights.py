"""Selection weights and attention of a pass are read off it as they are defined."""

from dataclasses import replace

import numpy as np
import torch

from report.weights import (
    history_by_lag,
    selection_weights,
    share_on_history,
    variable_names,
)
from tests.builders import SCHEMA, random_batch, tiny_forecaster

T, H = SCHEMA.context_length, SCHEMA.prediction_horizon


def test_attention_by_lag_is_relative_to_what_a_step_gives_history() -> None:
    draw = torch.Generator().manual_seed(0)
    seen = torch.rand(3, T, generator=draw) < 0.7
    ahead = torch.ones(H, H, dtype=torch.bool).tril().expand(3, -1, -1)
    looks = torch.cat([seen.unsqueeze(1).expand(-1, H, -1), ahead], dim=-1)
    attention = torch.rand(3, H, T + H, generator=draw) * looks
    attention = attention / attention.sum(-1, keepdim=True)
    sums, pairs = history_by_lag(attention, looks / looks.sum(-1, keepdim=True))
    expected, counted = np.zeros((3, T + H)), np.zeros((3, T + H))
    for window in range(3):
        for step in range(H):
            of_history = attention[window, step, :T]
            for tick in seen[window].nonzero().flatten().tolist():
                lag = T + step - tick
                counted[window, lag] += 1
                mean = of_history.sum() / seen[window].sum()
                expected[window, lag] += of_history[tick] / mean
    np.testing.assert_array_equal(pairs, counted)
    np.testing.assert_allclose(sums, expected, rtol=1e-4)
    np.testing.assert_allclose(
        share_on_history(seen, attention)[:, 0], attention[..., :T].sum(-1).mean(1)
    )


def test_weights_of_a_group_sum_to_one_and_missing_ticks_do_not_count() -> None:
    forecaster, batch = tiny_forecaster(), random_batch()
    batch.past[:, : T // 2] = torch.nan
    seen = batch.past.isfinite().any(-1)
    output = forecaster.explain(batch, return_weights=True)
    weights = selection_weights(seen, output)
    ends = np.cumsum([len(names) for names in variable_names(SCHEMA).values()])
    groups = np.split(weights.numpy(), ends, axis=1)
    assert groups.pop().size == 0
    for group in groups:
        np.testing.assert_allclose(group.sum(1), 1.0, rtol=1e-5)
    assert output.past_weights is not None
    np.testing.assert_allclose(groups[0], output.past_weights[:, T // 2 :].mean(1), rtol=1e-5)


def test_variables_are_named_by_role() -> None:
    names = variable_names(replace(SCHEMA, observed=(), static_reals=("cores",)))
    assert names["past"] == (*SCHEMA.target_names, *SCHEMA.known)
    assert names["static"][0] == "cores" and names["static"][-2:] == ("server", "profile")
