"""Slow work is done one after the other, and who would wait too long is turned away."""

import asyncio
import threading

import pytest

pytest.importorskip("starlette", reason="serving needs: pip install 'fleet-tft[serve]'")

from serve.problems import ProblemError
from serve.turns import Turns


def test_one_at_a_time_and_no_more_than_will_be_waited_for() -> None:
    at_work, most, release = 0, 0, threading.Event()

    def work() -> int:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        assert release.wait(10)
        at_work -= 1
        return 1

    async def ask() -> list[int | BaseException]:
        turns = Turns("pieces", 3)
        asked = [asyncio.create_task(turns.take(work)) for _ in range(5)]
        while turns.waiting < 3:
            await asyncio.sleep(0)
        release.set()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert turns.waiting == 0 and await turns.take(work) == 1
        return done

    done = asyncio.run(ask())
    assert most == 1
    assert done[:3] == [1, 1, 1]
    for each in done[3:]:
        assert isinstance(each, ProblemError) and each.status == 503
        assert str(each) == "3 pieces are waiting already; try again"


def test_work_that_fails_leaves_the_line() -> None:
    def work() -> None:
        raise OSError("of the test")

    async def ask() -> None:
        turns = Turns("pieces", 1)
        for _ in range(2):
            with pytest.raises(OSError, match="of the test"):
                await turns.take(work)

    asyncio.run(ask())
