"""pytorch-forecasting's TFT and Lightning's loop on the same table: the reference stack itself.

Needs the extra `peers`. A process of its own, like `benchmarks.phases`:
`python -m benchmarks.peers '{"data": "DIR", "targets": 4, "seconds": 8}'` prints JSON.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peer_tft import network, time_series, with_calendar
from benchmarks.phases import METRICS, WARM_UP

OBSERVED = ("network_in_mbs", "network_out_mbs", "io_wait_percent", "swap_percent")


def measure_steps(data: str, targets: int, seconds: float) -> dict[str, Any]:
    """Time training steps of batch 32 at 288 + 96 ticks, hidden 32, 8 heads; fetching included.

    Its data loader has no worker: on two cores a worker takes from the steps what it gives.
    """
    warnings.filterwarnings("ignore")
    import lightning.pytorch as lightning
    import numpy as np
    import pandas as pd
    from pytorch_forecasting.data import GroupNormalizer

    frame = pd.concat(pd.read_parquet(path) for path in sorted(Path(data).glob("*.parquet")))
    when = frame["timestamp"]
    tick = (when - when.min()) // pd.Timedelta("5min")
    frame = with_calendar(frame.assign(tick=tick.astype(int)))
    frame = frame.dropna(subset=[*METRICS, *OBSERVED])
    names = METRICS[:targets]
    normalisers = [GroupNormalizer(groups=["server_name"]) for _ in names]
    windows = time_series(frame, names, [*METRICS[targets:], *OBSERVED], normalisers)
    model = network(windows, targets)
    moments: list[float] = []

    class Clock(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            moments.append(time.perf_counter())
            trainer.should_stop = moments[-1] - moments[min(WARM_UP, len(moments) - 1)] > seconds

    lightning.Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=0.1, enable_progress_bar=False,
        logger=False, enable_checkpointing=False, enable_model_summary=False, callbacks=[Clock()],
    ).fit(model, windows.to_dataloader(train=True, batch_size=32, num_workers=0))  # fmt: skip
    steps = np.diff(moments)[WARM_UP:]
    return {
        "windows_per_second": 32 / median(steps),
        "step_ms": 1e3 * median(steps),
        "steps": len(steps),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


if __name__ == "__main__":
    print(json.dumps(measure_steps(**json.loads(sys.argv[1]))))
