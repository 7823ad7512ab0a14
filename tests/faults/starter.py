"""Starts the command line as often as it is asked to, having imported what takes long only once.

Each line of standard input names a folder. The process started writes there: `output`, `errors`,
`pid`, and, once it has ended, `exit`. It is a process like any other `python cli.py`, save that its
imports were done before it was born.
"""

import json
import os
import sys
import threading
from pathlib import Path

import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch._dynamo  # noqa: F401  (which AdamW imports)
import torch.utils.tensorboard  # noqa: F401

import report.plots  # noqa: F401
import train.trainer  # noqa: F401
from cli import cli


def await_order() -> None:
    """Return in each process that is to be the command line; end with standard input."""
    assert threading.active_count() == 1, "a copy of a process has one thread only"
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        if os.fork() == 0:
            pid = os.fork()
            if pid == 0:
                become(folder)
                return
            write(folder / "pid", pid)
            _, status = os.waitpid(pid, 0)
            write(folder / "exit", os.waitstatus_to_exitcode(status))
            os._exit(0)
    sys.exit()


def become(folder: Path) -> None:
    """Take on the standard streams, the arguments and the process group of a fresh process."""
    os.setsid()
    for number, path in ((0, Path("/dev/null")), (1, folder / "output"), (2, folder / "errors")):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["cli.py", *json.loads((folder / "arguments").read_text())]


def write(path: Path, number: int) -> None:
    """Write a number, whole as soon as the file is there."""
    path.with_suffix(".part").write_text(str(number))
    path.with_suffix(".part").rename(path)


await_order()
cli()
