"""The most common value per server, counted in little memory."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.reading.stats import SLOTS, MostCommon


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, SLOTS + 3)), min_size=1, max_size=120),
    st.integers(1, 120),
    st.randoms(use_true_random=False),
)
def test_the_mode_of_each_server_whatever_the_order_and_the_chunks(cells, chunk, random):
    """Equal to counting everything, unless a server has more values than are counted."""
    expected = []
    for server in range(3):
        values = [value for owner, value in cells if owner == server]
        crowded = len(set(values)) > SLOTS
        modes = [] if crowded else [v for v in set(values) if values.count(v) == _most(values)]
        expected.append(float(min(modes)) if modes else np.nan)
    random.shuffle(cells)
    counted = MostCommon()
    for start in range(0, len(cells), chunk):
        servers, values = np.array(cells[start : start + chunk]).T
        counted.add(servers, values.astype(np.float32), 3)
    np.testing.assert_array_equal(counted.modes()[0], expected)


def test_one_value_more_than_is_counted():
    counted = MostCommon()
    values = np.arange(SLOTS, dtype=np.float32)
    counted.add(np.zeros(SLOTS, np.int64), values, 1)
    assert counted.modes()[0].tolist() == [0] and not counted.crowded.any()
    counted.add(np.array([0]), np.array([99.0]), 1)
    assert np.isnan(counted.modes()[0]).all() and counted.crowded.all()


def _most(values: list[int]) -> int:
    return max(values.count(value) for value in values)
