"""Small networks, inputs and fleets for tests."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from data.fleet import Fleet
from tft.batch import WindowBatch
from tft.dropout import Dropout
from tft.forecaster import Forecaster, network_config
from tft.model import TFT, TFTConfig, TFTInputs
from tft.normalise import WindowNormaliser
from tft.schema import FeatureSchema, Metric
from tft.selection import VariableSelection

TINY = TFTConfig(
    num_past=4,
    num_future=3,
    num_targets=2,
    num_static_reals=2,
    static_cardinalities=(5, 3),
    hidden_size=8,
    embedding_size=4,
    attention_heads=2,
    dropout=0.1,
    num_naive=3,
)

SCHEMA = FeatureSchema(
    targets=(Metric("cpu_percent", 0.0, 100.0), Metric("load_average", 0.0)),
    observed=(Metric("temperature"),),
    static_reals=("cores",),
    profiles=("database", "web_api"),
    server_buckets=8,
    step_seconds=3600,
    context_length=30,
    min_context_length=4,
    prediction_horizon=6,
    quantiles=(0.1, 0.5, 0.9),
)


def tiny_network(seed: int = 0, dtype: torch.dtype = torch.float64, patch_length: int = 1) -> TFT:
    """Return a TINY network in evaluation mode."""
    torch.manual_seed(seed)
    return TFT(replace(TINY, patch_length=patch_length)).to(dtype).eval()


def random_inputs(
    B: int = 3, T: int = 7, H: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> TFTInputs:
    """Return inputs for a TINY network; every tick seen."""
    draw = torch.Generator().manual_seed(seed)
    naive = (B, H, TINY.num_targets, TINY.num_naive, len(TINY.quantiles))
    return TFTInputs(
        past=torch.randn(B, T, TINY.num_past, 2, generator=draw, dtype=dtype),
        future=torch.randn(B, H, TINY.num_future, 2, generator=draw, dtype=dtype),
        static_reals=torch.randn(B, TINY.num_static_reals, 2, generator=draw, dtype=dtype),
        static_codes=torch.stack(
            [torch.randint(0, n, (B,), generator=draw) for n in TINY.static_cardinalities], dim=1
        ),
        naive=torch.randn(naive, generator=draw, dtype=dtype).sort(-1).values,
        naive_seen=torch.rand(B, TINY.num_targets, TINY.num_naive, generator=draw, dtype=dtype),
    )


def without_dropout(network: nn.Module) -> None:
    """Let training mode draw no random numbers."""
    for part in network.modules():
        if isinstance(part, Dropout):
            part.rate = 0.0
        if isinstance(part, VariableSelection):
            part.dropout = 0.0


def tiny_forecaster(
    seed: int = 0, schema: FeatureSchema = SCHEMA, patch_length: int = 4
) -> Forecaster:
    """Return a forecaster with random weights and plausible statistics, in evaluation mode."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "embedding_size": 4, "attention_heads": 2}
    config = network_config(schema, patch_length=patch_length, **sizes)
    normaliser = WindowNormaliser(len(schema.metrics), len(schema.static_reals))
    days = torch.rand(20, 24, len(schema.metrics)) * 50
    normaliser.fit(days, torch.rand(20, len(schema.static_reals)) * 16)
    return Forecaster(schema, TFT(config), normaliser).eval()


def random_batch(B: int = 3, seed: int = 0, schema: FeatureSchema = SCHEMA) -> WindowBatch:
    """Return raw windows with full histories and nothing missing."""
    draw = torch.Generator().manual_seed(seed)
    T, H, M = schema.context_length, schema.prediction_horizon, len(schema.metrics)
    turns = torch.rand(B, T + H, len(schema.known), 1, generator=draw) * 6
    return WindowBatch(
        past=torch.rand(B, T, M, generator=draw) * 50,
        known=torch.cat([turns.sin(), turns.cos()], dim=-1),
        static_reals=torch.rand(B, len(schema.static_reals), generator=draw) * 8,
        static_codes=torch.randint(0, 3, (B, 2), generator=draw),
        history_length=torch.full((B,), T),
        future=torch.rand(B, H, len(schema.targets), generator=draw) * 50,
        earlier=torch.rand(B, schema.earlier_ticks, len(schema.targets), generator=draw) * 50,
    )


def small_fleet(
    lengths: tuple[int, ...] = (60, 80, 50), seed: int = 0, schema: FeatureSchema = SCHEMA
) -> Fleet:
    """Return random series of the schema's columns, starting at different ticks."""
    draw = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = draw.uniform(1, 50, (offsets[-1], len(schema.metrics))).astype(np.float32)
    return Fleet(
        servers=tuple(f"server{i}" for i in range(len(lengths))),
        profiles=tuple(schema.profiles[i % 2] for i in range(len(lengths))),
        metrics=schema.metric_names,
        static_names=schema.static_reals,
        values=values,
        offsets=offsets,
        first_tick=1000 + 3 * np.arange(len(lengths)),
        static=draw.uniform(1, 8, (len(lengths), 1)).astype(np.float32),
        step_seconds=schema.step_seconds,
    )


SMALL_TRAINING = {
    "context_length": 24,
    "min_context_length": 6,
    "prediction_horizon": 6,
    "hidden_size": 8,
    "embedding_size": 4,
    "attention_heads": 2,
    "windows_per_epoch": 96,
    "validation_windows": 32,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 0.01,
    "target_metrics": ("cpu_percent", "load_average"),
}


def small_table(servers: int = 3, hours: int = 30, seed: int = 0) -> pd.DataFrame:
    """Return rows of a small fleet with a daily rhythm, every 5 minutes."""
    draw = np.random.default_rng(seed)
    times = pd.date_range("2026-01-05", periods=12 * hours, freq="5min", tz="UTC")
    turn = np.arange(len(times)) / 288 * 2 * np.pi
    frames = []
    for number in range(servers):
        cpu = 40 + 20 * np.sin(turn + number) + draw.normal(0, 2, len(times))
        frames.append(
            pd.DataFrame(
                {
                    "timestamp": times,
                    "server_name": f"server{number}",
                    "profile": ("web_api", "database")[number % 2],
                    "cpu_percent": cpu.clip(0, 100),
                    "load_average": (cpu / 10 + draw.normal(0, 0.2, len(times))).clip(0),
                    "swap_percent": draw.uniform(0, 5, len(times)),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
