"""Stopping on request: finish the step at hand, save, and leave."""

import math
import os
import signal
import threading
import time
from types import FrameType, TracebackType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 + the signal's number, as shells do
TOGETHER = 0.2  # seconds within which signals are one request: timeout(1) sends each one twice


class StopRequest:
    """While entered, the first SIGINT or SIGTERM asks for a stop; a second one stops at once.

    The first is seen between steps. For the second a thread listens, as Python runs no handler
    while the main thread is inside an operation of PyTorch's, and a backward pass is just one.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._until_exit = False

    def __enter__(self) -> "StopRequest":
        """Start listening; only the main thread can."""
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        threading.Thread(target=_stop_at_second, args=(reader,), daemon=True).start()
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._ask) for number in EXIT_CODES}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave signals as they were, unless the process is about to end."""
        if not self._until_exit:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writer)  # ends the thread

    def until_exit(self) -> None:
        """Leave nothing to further signals: they must not change the exit status."""
        self._until_exit = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)


class Stopped(Exception):  # noqa: N818  (nothing went wrong)
    """Training stopped on request, after saving."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}; go on with --resume")
        self.exit_code = EXIT_CODES[number]


def _stop_at_second(reader: int) -> None:
    """End the process at the second request; the numbers of signals come through a pipe."""
    # torchrun repeats signals while its ranks save, and kills them after 30 s.
    together = math.inf if "TORCHELASTIC_RUN_ID" in os.environ else TOGETHER
    first = math.inf
    while numbers := os.read(reader, 64):
        requests = [number for number in numbers if number in EXIT_CODES]
        if requests:
            now = time.monotonic()
            if now - first > together:
                os._exit(EXIT_CODES[signal.Signals(requests[0])])
            first = min(first, now)
    os.close(reader)
