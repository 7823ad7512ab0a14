"""A real Prometheus with a past made of samples: blocks by promtool, served by prometheus."""

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

DAY_MILLISECONDS = 86_400_000
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="no prometheus and promtool on the PATH; tests/install_programs.sh installs them",
)


class Sample(NamedTuple):
    """One measurement."""

    series: str
    """As in PromQL: `name{label="value"}`."""
    milliseconds: int
    value: float


def fill(folder: Path, samples: Iterable[Sample], kind: str = "gauge") -> None:
    """Write samples as blocks, a day at a time: promtool reads its whole input for each block."""
    days: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for series, milliseconds, value in samples:
        line = f"{series} {value!r} {milliseconds / 1000:.3f}"
        days[milliseconds // DAY_MILLISECONDS][series.partition("{")[0]].append(line)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder.parent / "samples.txt"
    for families in days.values():
        text = [part for name in families for part in (f"# TYPE {name} {kind}", *families[name])]
        source.write_text("\n".join([*text, "# EOF\n"]))
        command = ["promtool", "tsdb", "create-blocks-from", "--quiet", "openmetrics"]
        subprocess.run([*command, source, folder], check=True, capture_output=True)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder of blocks, and yield the url."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = folder.parent / "prometheus.yml"
    config.write_text("")
    log = folder.parent / "prometheus.log"
    with (
        pytest.MonkeyPatch.context() as patch,
        log.open("wb") as output,
        subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}",
             "--storage.tsdb.retention.time=99y", f"--web.listen-address={address}"],
            stdout=output, stderr=output,
        ) as process,
    ):  # fmt: skip
        patch.setenv("no_proxy", "127.0.0.1")
        try:
            _wait_until_ready(f"http://{address}/-/ready", process, log)
            yield f"http://{address}"
        finally:
            process.kill()


def _wait_until_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    limit = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:
            error.close()  # it is up, but still loading
        except OSError:
            pass
        assert process.poll() is None and time.monotonic() < limit, log.read_text()[-2000:]
        time.sleep(0.05)
