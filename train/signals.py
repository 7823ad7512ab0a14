"""Stopping on request: finish the step at hand, save, and leave."""

import os
import signal
from types import FrameType, TracebackType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 + the signal's number, as shells do


class StopRequest:
    """While entered, the first SIGINT or SIGTERM asks for a stop; a second one stops at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        """Start listening; only the main thread can."""
        self._before = {number: signal.getsignal(number) for number in EXIT_CODES}
        for number in EXIT_CODES:
            signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave signals as they were."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return  # torchrun repeats every signal, and kills after 30 s
        for other in EXIT_CODES:
            signal.signal(other, signal.SIG_DFL)


class Stopped(Exception):  # noqa: N818  (nothing went wrong)
    """Training stopped on request, after saving."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}; go on with --resume")
        self.exit_code = EXIT_CODES[number]
