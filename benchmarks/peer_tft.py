"""A peer of `benchmarks.accuracy`: pytorch-forecasting's TFT and Lightning's loop.

Needs the extra `peers`; `python -m benchmarks.peer_tft '{"folder": "DIR", ...}'` prints JSON.

n windows, D ticks in a day, H horizon steps, M metrics, Q quantiles.
"""

import copy
import json
import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.peer_data import (
    CONTEXT,
    QUANTILES,
    VALIDATION_SHARE,
    PeerWindows,
    load_fleet,
    load_windows,
)
from data.fleet import Fleet, FloatArray

TRAINED_QUANTILES = [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98]
CALENDAR = ["day_sin", "day_cos", "week_sin", "week_cos"]
HORIZON = 96
BATCH_SIZE = 32
EPOCH_BATCHES = 128  # 4,096 windows between two validations, as the project's forecaster
VALIDATION_WINDOWS = 1024
CHUNK = 256  # windows forecast at a time: each is a series of its own in a pandas frame


def with_calendar(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the time of day and of week of column `tick`, five minutes each, as points on circles."""
    day, week = (2 * np.pi * frame["tick"] / period for period in (288, 2016))
    return frame.assign(
        day_sin=np.sin(day), day_cos=np.cos(day), week_sin=np.sin(week), week_cos=np.cos(week)
    )


def time_series(
    frame: pd.DataFrame,
    targets: Sequence[str],
    observed: Sequence[str],
    normalisers: Sequence[Any],
    group: str = "server_name",
    categories: Sequence[str] = ("server_name", "profile"),
    static_reals: Sequence[str] = (),
    encoders: dict[str, Any] | None = None,
) -> Any:
    """Build pytorch-forecasting's data set of 288 + 96 ticks.

    Args:
        frame: rows of `with_calendar`, without NaN.
        targets: columns to forecast.
        observed: other columns, seen in the past only.
        normalisers: one for each target.
        group: column that tells series apart.
        categories: static columns of words.
        static_reals: columns of one number per server.
        encoders: of categories.
    """
    from pytorch_forecasting import TimeSeriesDataSet
    from pytorch_forecasting.data import MultiNormalizer

    many = len(targets) > 1
    return TimeSeriesDataSet(
        frame, time_idx="tick", target=list(targets) if many else targets[0], group_ids=[group],
        min_encoder_length=CONTEXT, max_encoder_length=CONTEXT,
        min_prediction_length=HORIZON, max_prediction_length=HORIZON,
        static_categoricals=list(categories), static_reals=list(static_reals),
        time_varying_known_reals=CALENDAR, time_varying_unknown_reals=[*targets, *observed],
        allow_missing_timesteps=True, categorical_encoders=encoders or {},
        target_normalizer=MultiNormalizer(list(normalisers)) if many else normalisers[0],
    )  # fmt: skip


def network(windows: Any, targets: int, weights: list[float] | None = None) -> Any:
    """Build its TFT: hidden 32, 8 heads, 7 quantiles of each target, losses weighted."""
    from pytorch_forecasting import TemporalFusionTransformer
    from pytorch_forecasting.metrics import MultiLoss, QuantileLoss

    many, levels = targets > 1, len(TRAINED_QUANTILES)
    losses = [QuantileLoss(TRAINED_QUANTILES) for _ in range(targets)]
    return TemporalFusionTransformer.from_dataset(
        windows, learning_rate=0.003, hidden_size=32, attention_head_size=8, dropout=0.15,
        hidden_continuous_size=16, output_size=[levels] * targets if many else levels,
        loss=MultiLoss(losses, weights) if many else losses[0], log_interval=-1,
        reduce_on_plateau_patience=4,
    )  # fmt: skip


def train_and_forecast(folder: str, out: str, seed: int, minutes: float) -> dict[str, Any]:
    """Train for some minutes, data set included, write forecasts of a folder's windows."""
    warnings.filterwarnings("ignore")
    import lightning.pytorch as lightning

    started = time.monotonic()
    lightning.seed_everything(seed, verbose=False)
    fleet, asked = load_fleet(Path(folder)), load_windows(Path(folder))
    frame = training_frame(fleet)
    windows, later = data_sets(frame, fleet, asked.num_targets)
    names = list(fleet.metrics[: asked.num_targets])
    # Its loss is in raw units, where one rate outweighs all percentages; so each is weighted as
    # the score weighs it.
    model = network(windows, len(names), [float(1 / frame[name].abs().mean()) for name in names])
    best: dict[str, Any] = {"loss": math.inf, "weights": None}

    class KeepBest(lightning.Callback):  # its own checkpoints are pickles
        def on_validation_end(self, trainer: Any, module: Any) -> None:
            loss = float(trainer.callback_metrics["val_loss"])
            if loss < best["loss"]:
                best.update(loss=loss, weights=copy.deepcopy(module.state_dict()))

    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=-1, gradient_clip_val=0.1, enable_progress_bar=False,
        logger=False, enable_checkpointing=False, enable_model_summary=False,
        callbacks=[KeepBest()], limit_train_batches=EPOCH_BATCHES, num_sanity_val_steps=0,
        max_time={"seconds": max(1.0, 60 * minutes - (time.monotonic() - started))},
    )  # fmt: skip
    loader = windows.to_dataloader(train=True, batch_size=BATCH_SIZE, num_workers=0)
    trainer.fit(model, loader, later)
    if best["weights"] is not None:
        model.load_state_dict(best["weights"])
    trained = time.monotonic()
    np.savez(out, forecast=predict(model, windows, fleet, asked, frame))
    return {
        "train_seconds": trained - started,
        "forecast_seconds": time.monotonic() - trained,
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "model_parameters": sum(p.numel() for p in model.parameters()),
    }


def training_frame(fleet: Fleet) -> pd.DataFrame:
    """Return a row per server and tick with every metric seen."""
    lengths = fleet.lengths
    server = np.repeat(np.arange(len(fleet.servers)), lengths)
    tick = np.concatenate([
        np.arange(first, first + length)
        for first, length in zip(fleet.first_tick, lengths, strict=True)
    ])  # fmt: skip
    frame = pd.DataFrame(fleet.values, columns=list(fleet.metrics)).assign(tick=tick)
    frame = frame.assign(
        profile=np.array([profile or "" for profile in fleet.profiles])[server],
        series=np.array(fleet.servers)[server],
        **{name: fleet.static[server, i] for i, name in enumerate(fleet.static_names)},
    )
    frame[list(fleet.static_names)] = frame[list(fleet.static_names)].fillna(0.0)
    return with_calendar(frame.dropna(subset=list(fleet.metrics)))


def data_sets(frame: pd.DataFrame, fleet: Fleet, num_targets: int) -> tuple[Any, Any]:
    """Return the windows to train on, and a loader of those after them to validate on."""
    import torch
    from pytorch_forecasting import TimeSeriesDataSet
    from pytorch_forecasting.data import EncoderNormalizer, NaNLabelEncoder

    begin, end = frame["tick"].min(), frame["tick"].max() + 1
    cut = end - round((end - begin) * VALIDATION_SHARE)
    # Of words first met in a forecast: a profile never seen, a window as a series of its own.
    strangers = {name: NaNLabelEncoder(add_nan=True) for name in ("profile", "series")}
    # For machines never seen: each window is normalised by its own history, as a GroupNormalizer
    # would give them the scale of the average server; and names of servers are no input, as theirs
    # would be read through an embedding that was never trained.
    windows = time_series(
        frame[frame["tick"] < cut],
        fleet.metrics[:num_targets],
        fleet.metrics[num_targets:],
        [EncoderNormalizer() for _ in range(num_targets)],
        group="series",
        categories=["profile"],
        static_reals=fleet.static_names,
        encoders=strangers,
    )
    later = TimeSeriesDataSet.from_dataset(windows, frame, min_prediction_idx=cut)
    some = np.arange(VALIDATION_WINDOWS) * len(later) // VALIDATION_WINDOWS
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(later, np.unique(some).tolist()),
        batch_size=4 * BATCH_SIZE,
        collate_fn=later._collate_fn,
    )
    return windows, loader


def predict(
    model: Any, windows: Any, fleet: Fleet, asked: PeerWindows, frame: pd.DataFrame
) -> FloatArray:
    """Forecast windows, the judged quantiles in raw units, [n, H, M, Q]."""
    import torch
    from pytorch_forecasting import TimeSeriesDataSet

    typical = frame[list(fleet.metrics)].median()
    levels = [TRAINED_QUANTILES.index(level) for level in QUANTILES]
    model.eval()
    parts = []
    for start in range(0, len(asked.origin), CHUNK):
        some = slice(start, min(start + CHUNK, len(asked.origin)))
        rows = window_frame(asked, some, fleet, typical)
        series = TimeSeriesDataSet.from_dataset(windows, rows, predict=True)
        loader = series.to_dataloader(train=False, batch_size=128, num_workers=0)
        found, order = [], []
        with torch.no_grad():
            for batch, _ in loader:
                quantiles = model(batch).prediction
                quantiles = quantiles if isinstance(quantiles, (list, tuple)) else [quantiles]
                found.append(torch.stack(list(quantiles), 2)[..., levels].numpy())
                order.append(series.x_to_index(batch)["series"].astype(int).to_numpy())
        parts.append(np.concatenate(found)[np.argsort(np.concatenate(order))])
    return np.concatenate(parts)


def window_frame(
    asked: PeerWindows, some: slice, fleet: Fleet, typical: "pd.Series[float]"
) -> pd.DataFrame:
    """Return windows as series of their own, named by number; what came stays unknown.

    Its data set wants numbers for the future too: they are the last ones seen, and the network
    does not read them.
    """
    history = asked.history[some]  # [n, D, M]
    n, D, M = history.shape
    H = asked.horizon
    columns = pd.DataFrame(history.transpose(1, 0, 2).reshape(D, n * M))
    filled = columns.ffill().to_numpy().reshape(D, n, M).transpose(1, 0, 2)
    filled = np.where(np.isnan(filled), typical.to_numpy(), filled)
    values = np.concatenate([filled, np.repeat(filled[:, -1:], H, 1)], 1).reshape(-1, M)
    tick = asked.origin[some, None] + np.arange(-D, H)
    each = D + H
    frame = pd.DataFrame(values.astype(np.float32), columns=list(fleet.metrics)).assign(
        tick=tick.reshape(-1),
        series=np.repeat(np.arange(n).astype(str), each),
        profile=np.repeat(asked.profile[some], each),
        **{
            name: np.repeat(np.nan_to_num(asked.static[some, i]), each)
            for i, name in enumerate(fleet.static_names)
        },
    )
    return with_calendar(frame)


if __name__ == "__main__":
    print(json.dumps(train_and_forecast(**json.loads(sys.argv[1]))))
