"""Web threads feed while the forecast thread reads: whole batches, no waiting, nothing lost."""

import threading
from pathlib import Path

import pytest

from tests.feeds import START, again, cpu_of, row, state


def test_a_reader_sees_all_of_a_batch_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for in the middle of a change, the fleet and the roster wait for its end."""
    fed = state(tmp_path)
    fed.accept([row("a"), row("b")])
    seen: list = []
    readers = [
        threading.Thread(target=lambda: seen.append(fed.fleet().lengths)),
        threading.Thread(target=lambda: seen.append(fed.roster().lengths)),
    ]
    put = fed._ring.put

    def slow_put(*columns) -> None:
        for reader in readers:
            reader.start()
            reader.join(0.1)
        assert seen == []
        put(*columns)

    monkeypatch.setattr(fed._ring, "put", slow_put)
    fed.accept([row("a", START + 1), row("b", START + 1)])
    for reader in readers:
        reader.join()
    assert [lengths.tolist() for lengths in seen] == [[2, 2], [2, 2]]


def test_nothing_changes_while_a_fleet_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = state(tmp_path)
    fed.accept([row("a"), row("b")])
    rows = [row("a", cpu=3, seconds=1), row("b", cpu=3, seconds=1)]
    feeder = threading.Thread(target=fed.accept, args=(rows,))
    copy = fed._ring.copy

    def slow_copy(*columns) -> None:
        copy(*columns)
        if not feeder.ident:
            feeder.start()
            feeder.join(0.2)
            assert feeder.is_alive()

    monkeypatch.setattr(fed._ring, "copy", slow_copy)
    assert fed.fleet().values[:, 0].tolist() == [1, 1]
    feeder.join()
    assert fed.fleet().values[:, 0].tolist() == [2, 2]


def test_threads_that_feed_at_once_lose_nothing(tmp_path: Path) -> None:
    fed = state(tmp_path)

    def feed(server: str) -> None:
        for tick in range(START, START + 15):
            fed.accept([row(server, tick, cpu=tick - START), row("all", tick, seconds=ord(server))])

    threads = [threading.Thread(target=feed, args=(server,)) for server in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in (fed, again(fed, tmp_path)):
        for server in "abcd":
            assert cpu_of(each, server) == list(range(15))
        assert cpu_of(each, "all") == [1] * 15


def test_readers_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    fed = state(tmp_path)
    fed.accept([row()])
    with fed._store.transaction():  # the disk is slow
        feeder = threading.Thread(target=fed.accept, args=([row(tick=START + 1)],))
        feeder.start()
        feeder.join(0.2)
        assert feeder.is_alive(), "nothing is acknowledged before it is on disk"
        assert cpu_of(fed) == [1] and fed.roster().servers == ("a",)
    feeder.join()
    assert cpu_of(fed) == [1, 1]
