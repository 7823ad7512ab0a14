"""Parts of a fleet: every server is of exactly one, in every process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.shards import WHOLE, Shard, parse_shard


@given(server=st.text(), parts=st.integers(1, 40))
def test_every_server_is_of_exactly_one_part(server: str, parts: int) -> None:
    assert sum(Shard(i, parts).has(server) for i in range(1, parts + 1)) == 1
    assert WHOLE.has(server)


def test_a_servers_part_never_changes() -> None:
    """Not from process to process, as with `hash`, and not from one release to the next."""
    servers = ["web-01", "web-02", "db-01", "db-02", "Zürich", ""]
    assert [[s for s in servers if Shard(i, 3).has(s)] for i in (1, 2, 3)] == [
        ["web-01", ""],
        ["web-02", "db-01", "db-02"],
        ["Zürich"],
    ]


def test_parts_are_of_about_one_size() -> None:
    servers = [f"server-{number:04}" for number in range(2000)]
    sizes = [sum(map(Shard(i, 4).has, servers)) for i in range(1, 5)]
    assert min(sizes) > 440 and max(sizes) < 560


@pytest.mark.parametrize("text", ["1/1", "1/4", "4/4", "12/100"])
def test_a_part_is_read_and_written_alike(text: str) -> None:
    assert str(parse_shard(text)) == text


@pytest.mark.parametrize(
    "text", ["", "1", "/", "0/4", "5/4", "1/0", "-1/4", "1/-4", "1.0/4", "1/4/2", " 1/4", "¹/4"]
)
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected i/N, part i of N with i from 1 to N"):
        parse_shard(text)
