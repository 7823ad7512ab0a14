"""What memory a process holds, and the most it held, on Linux."""

from pathlib import Path

import click


def forget_peak() -> int:
    """Set the peak memory of this process back to what it holds now; return that, in bytes.

    Not `ru_maxrss`: on Linux a process starts with what its parent held (exec hands it on).
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise click.ClickException(f"peak memory is measured on Linux only: {error}") from error
    return peak_memory()


def peak_memory() -> int:
    """Return the most memory this process held since `forget_peak`, in bytes."""
    return _bytes("VmHWM", "self")


def held_memory(pid: int) -> int:
    """Return the memory another process holds, in bytes."""
    return _bytes("VmRSS", str(pid))


def _bytes(key: str, process: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
