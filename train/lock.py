"""One process per run directory."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

LOCK = ".lock"


class RunLock:
    """Held while training; the kernel lets go of it when its process dies, however it dies."""

    def __init__(self, run: Path) -> None:
        """Take the lock.

        Raises:
            ValueError: another living process holds it; the message names that process.
        """
        self.path = run / LOCK
        self._file: IO[str] = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "a process that did not say its name"
            self._file.close()
            raise ValueError(
                f"run directory {run} is in use by {holder}; wait for it, or name another --run-dir"
            ) from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let the next one in; the file stays, an empty promise."""
        self._file.close()
