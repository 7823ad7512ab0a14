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

from benchmarks.phases import METRICS, WARM_UP

OBSERVED = ("network_in_mbs", "network_out_mbs", "io_wait_percent", "swap_percent")
QUANTILES = [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98]


def measure_steps(data: str, targets: int, seconds: float) -> dict[str, Any]:
    """Time training steps of batch 32 at 288 + 96 ticks, hidden 32, 8 heads; fetching included.

    Its data loader has no worker: on two cores a worker takes from the steps what it gives.
    """
    warnings.filterwarnings("ignore")
    import lightning.pytorch as lightning
    import numpy as np
    import pandas as pd
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.data import GroupNormalizer, MultiNormalizer
    from pytorch_forecasting.metrics import MultiLoss, QuantileLoss

    frame = pd.concat(pd.read_parquet(path) for path in sorted(Path(data).glob("*.parquet")))
    when = frame["timestamp"]
    tick = (when - when.min()) // pd.Timedelta("5min")
    day, week = (2 * np.pi * tick / period for period in (288, 2016))
    frame = frame.assign(
        tick=tick.astype(int), day_sin=np.sin(day), day_cos=np.cos(day),
        week_sin=np.sin(week), week_cos=np.cos(week),
    )  # fmt: skip
    frame = frame.dropna(subset=[*METRICS, *OBSERVED])
    names = list(METRICS[:targets])
    many = targets > 1
    losses = [QuantileLoss(QUANTILES) for _ in names]
    normalisers = [GroupNormalizer(groups=["server_name"]) for _ in names]
    windows = TimeSeriesDataSet(
        frame, time_idx="tick", target=names if many else names[0], group_ids=["server_name"],
        min_encoder_length=288, max_encoder_length=288,
        min_prediction_length=96, max_prediction_length=96,
        static_categoricals=["server_name", "profile"],
        time_varying_known_reals=["day_sin", "day_cos", "week_sin", "week_cos"],
        time_varying_unknown_reals=[*METRICS, *OBSERVED], allow_missing_timesteps=True,
        target_normalizer=MultiNormalizer(normalisers) if many else normalisers[0],
    )  # fmt: skip
    model = TemporalFusionTransformer.from_dataset(
        windows, learning_rate=0.003, hidden_size=32, attention_head_size=8, dropout=0.15,
        hidden_continuous_size=16, output_size=[7] * targets if many else 7,
        loss=MultiLoss(losses) if many else losses[0], log_interval=-1,
    )  # fmt: skip
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
