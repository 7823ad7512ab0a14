"""One process per run directory."""

import fcntl
import os
import re
import socket
import weakref
from pathlib import Path
from typing import IO

LOCK = ".lock"
_taken: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


class RunLock:
    """Held while training; the kernel lets go of it when its process dies, however it dies."""

    def __init__(self, run: Path) -> None:
        """Take the lock, and remove what its last holder was writing when it was killed.

        Raises:
            ValueError: another living process holds it; the message names that process.
        """
        self.path = run / LOCK
        self._file: IO[str] = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
        self._file.seek(0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with self._file:
                raise _in_use(run, self._file) from None
        if last := re.match(r"process (\d+) on", self._file.read()):
            for half_written in run.rglob(f".*.{last[1]}.tmp"):  # see write_atomically
                half_written.unlink()
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        _taken.add(self)

    def release(self) -> None:
        """Let the next one in; the file stays, an empty promise."""
        self._file.close()


def check_unused(run: Path) -> None:
    """Refuse a run directory that another living process works in.

    Raises:
        ValueError: the message names that process.
    """
    if not (run / LOCK).is_file():
        return
    with open(run / LOCK, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(run, file) from None


def _in_use(run: Path, lock: IO[str]) -> ValueError:
    holder = lock.read().strip() or "a process that did not say its name"
    return ValueError(
        f"run directory {run} is in use by {holder}; wait for it, or name another --run-dir"
    )


def _leave_to_parent() -> None:
    """Close a forked process's copy: a loader worker may outlive, by seconds, who was killed."""
    for lock in _taken:
        lock.release()


os.register_at_fork(after_in_child=_leave_to_parent)
