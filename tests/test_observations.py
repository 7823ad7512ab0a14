"""What is sent row by row: what is sound, what is rejected alone and why."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from serve.observations import Observation
from tests.feeds import (
    START,
    STEP,
    cpu_of,
    equal,
    reasons,
    row,
    state,
)

NAN = math.nan


def test_rows_of_the_future_are_rejected_beyond_one_step(tmp_path: Path) -> None:
    fed = state(tmp_path)
    fed.clock = lambda: START * STEP + 100.0
    assert fed.accept([row(tick=START + 1, seconds=100)]).accepted == 1
    (reason,) = reasons(fed, row(tick=START + 1, seconds=101))
    assert "over one step of 3600 s ahead of the service's clock" in reason
    assert "2024-10-04T01:01:41Z" in reason and "2024-10-04T00:01:40Z" in reason
    assert fed.newest_tick == START + 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (
            row(values={"cpu": 1.0}),
            "unknown metric 'cpu'; there are cpu_percent, load_av",
        ),
        (row(ram=1.0), "unknown static column 'ram'; there are cores"),
        (row(cpu="45%"), "cpu_percent is '45%'; expected a number, or null"),
        (row(cpu=True), "cpu_percent is 'True'; expected a number, or null"),
        (row(cores="four"), "cores is 'four'; expected a number, or null"),
        (row("  "), "server_name is empty; expected a server name"),
        (Observation("a", 0, None, {}), "timestamp 0 ms: expected an ISO-8601 time"),
        (Observation("a", 1 << 62, None, {}), "expected an ISO-8601 time"),
        (row(values={"x" * 1000: 1.0}), f"unknown metric '{'x' * 60}';"),
    ],
)
def test_a_bad_row_is_rejected_alone(tmp_path: Path, bad: Observation, reason: str) -> None:
    fed = state(tmp_path)
    receipt = fed.accept([row(), bad, row(tick=START + 1)])
    assert receipt.accepted == 2
    assert [each.index for each in receipt.rejected] == [1]
    assert re.search(reason, receipt.rejected[0].reason)


def test_numbers_of_any_kind_and_size(tmp_path: Path) -> None:
    fed = state(tmp_path)
    numbers = [3, np.float32(3), 3.0, 10**400, -(10**400), 1e300, -0.0]
    fed.accept([row(tick=START + i, cpu=number) for i, number in enumerate(numbers)])
    assert equal(cpu_of(fed), [3, 3, 3, NAN, NAN, NAN, 0])
