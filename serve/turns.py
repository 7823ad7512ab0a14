"""Slow work, one piece after the other in a thread, and no more of it than will be waited for."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from serve.problems import ProblemError

T = TypeVar("T")


class Turns:
    """One line to wait in."""

    def __init__(self, what: str, most: int) -> None:
        """Begin an empty line.

        Args:
            what: waits in it, for the answer to who is turned away.
            most: pieces at work or waiting.
        """
        self.what, self.most = what, most
        self.waiting = 0
        self.turn = asyncio.Lock()

    async def take(self, work: Callable[[], T]) -> T:
        """Wait for one's turn, and work.

        Raises:
            ProblemError: too many are waiting already.
        """
        if self.waiting >= self.most:
            raise ProblemError(
                503, f"{self.most} {self.what} are waiting already; try again",
                headers={"Retry-After": "1"},
            )  # fmt: skip
        self.waiting += 1
        try:
            async with self.turn:
                return await run_in_threadpool(work)
        finally:
            self.waiting -= 1
