"""Everything that changes a training's result, validated, saved with the run."""

import contextlib
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from report.scores import SCORED_QUANTILES
from tft.schema import DEFAULT_QUANTILES, check_quantiles

# Keys that may differ when a run is resumed: they change how long and where, not what.
MAY_CHANGE = {
    "epochs",
    "max_minutes",
    "device",
    "num_workers",
    "checkpoint_minutes",
    "checkpoint_epochs",
    "log_every_n_steps",
    "lr_monitor_interval",
}
PRECISION_ALIASES = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}


@dataclass(frozen=True)
class TrainConfig:
    """Keys of `--config` files and of `--set key=value`."""

    # What is forecast, from what.
    target_metrics: tuple[str, ...] = (
        "cpu_percent",
        "memory_percent",
        "disk_percent",
        "load_average",
    )
    """Columns to forecast."""
    multi_target: bool = True
    """One model for all targets; false forecasts the first and only observes the others."""
    context_length: int = 288
    """Ticks of history the network sees."""
    min_context_length: int = 72
    """Fewest ticks of history in a training window."""
    prediction_horizon: int = 96
    """Ticks forecast."""
    quantiles: tuple[float, ...] = DEFAULT_QUANTILES
    """Levels forecast; 0.1, 0.5 and 0.9, which are scored, among them."""
    validation_split: float = 0.2
    """Share of the time span, at its end, that validates."""
    validation_servers: tuple[str, ...] = ()
    """Servers never trained on, that validate beside the others."""
    validation_windows: int | None = 1024
    """Windows validated per epoch, evenly spaced; none: every one."""
    windows_per_epoch: int | None = 4096
    """Most windows trained per epoch; none: every one. Neighbours differ by one tick."""
    num_workers: int = 0
    """Processes that gather batches; 0 gathers them on the device itself."""

    # The network.
    patch_length: int = 12
    """Ticks of the context that are one step of its encoder; 1 is the paper's encoder. A context
    that is no multiple of it is filled up with missing ticks."""
    hidden_size: int = 32
    """Width of its layers."""
    embedding_size: int = 8
    """Width of a variable's embedding."""
    attention_heads: int = 8
    """Heads of the attention."""
    dropout: float = 0.15
    """Share of activations dropped."""
    unknown_rate: float = 0.1
    """Share of server and profile codes hidden, so that new servers are forecast well."""
    calendar_dropout: float = 0.5
    """Share of windows whose calendar is hidden, so that a few weeks' weekdays are not learnt by
    heart."""

    init: str | None = None
    """Run directory or model folder to start from, of another fleet; none: fresh weights."""

    # The optimisation.
    epochs: int | None = 20
    """Most epochs; none: as many as fit into max_minutes."""
    max_minutes: float | None = None
    """Most minutes, reading the data included, of each start; none: no limit."""
    batch_size: int = 32
    """Windows in a batch."""
    accumulate_grad_batches: int = 1
    """Batches in an optimizer step; equals one batch as large as all of them."""
    learning_rate: float = 0.006
    """AdamW's, at the start; chosen by measurement, see benchmarks/NOTES.md."""
    auto_lr_find: bool = False
    """Replace learning_rate by an LR range test's suggestion."""
    ema_decay: float | None = 0.99
    """Validate and keep an exponential moving average of the weights; none: the weights as is."""
    weight_decay: float = 0.01
    """AdamW's."""
    gradient_clip_val: float = 0.1
    """Largest norm of a step's gradient."""
    plateau_patience: int = 4
    """Epochs in a row without a better validation loss that halve the learning rate."""
    early_stopping_patience: int = 8
    """Epochs in a row without a better validation loss that end the training."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network; weights and normalisation stay in fp32."""
    random_seed: int = 42
    """Seed of weights, dropout and the order of windows."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    calibrate: bool = False
    """Fit the gaps between quantiles to the validation windows at the end; folds never do. It did
    harm where later weeks differed from validation's, see benchmarks/NOTES.md."""
    fast_path: bool = True
    """On a CPU, hand-derived layers instead of the readable ones, which they equal."""
    deterministic: bool = False
    """Only deterministic kernels, on a GPU too, where they are slower."""

    # What is recorded.
    checkpoints_dir: str = "checkpoints"
    """Folder in the run directory for what --resume goes on from."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints within an epoch."""
    checkpoint_epochs: int = 1
    """Epochs between checkpoints at an epoch's end."""
    logs_dir: str = "logs"
    """Folder in the run directory for TensorBoard."""
    log_every_n_steps: int = 50
    """Steps between TensorBoard points."""
    lr_monitor_interval: Literal["step", "epoch"] = "epoch"
    """How often TensorBoard gets the learning rate."""

    def __post_init__(self) -> None:
        """Refuse what could not be trained, by name."""
        if isinstance(self.precision, str):
            precision = PRECISION_ALIASES.get(self.precision, self.precision)
            object.__setattr__(self, "precision", precision)
        hints = typing.get_type_hints(TrainConfig)
        for field in fields(self):
            value = _coerce(getattr(self, field.name), hints[field.name])
            if value is _MISFIT:
                raise ValueError(
                    f"{field.name} = {getattr(self, field.name)!r}: expected "
                    f"{_describe(hints[field.name])}"
                )
            object.__setattr__(self, field.name, value)
        for name in ("checkpoints_dir", "logs_dir"):
            folder = Path(getattr(self, name))
            if folder.is_absolute() or ".." in folder.parts or folder == Path():
                raise ValueError(f"{name} = {str(folder)!r}: expected a folder's name in the run")
        check_quantiles(self.quantiles)
        missing = [level for level in SCORED_QUANTILES if level not in self.quantiles]
        if missing:
            raise ValueError(f"quantiles = {self.quantiles}: expected {missing[0]} among them")
        if not self.target_metrics:
            raise ValueError("target_metrics is empty: name at least one column to forecast")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} = {value}: expected {low} to {high}")
        if self.epochs is None and self.max_minutes is None:
            raise ValueError("epochs and max_minutes are both none: training would never end")
        if self.hidden_size % self.attention_heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size}: expected a multiple of attention_heads, "
                f"{self.attention_heads}"
            )
        if self.min_context_length > self.context_length:
            raise ValueError(
                f"min_context_length = {self.min_context_length}: expected at most "
                f"context_length, {self.context_length}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "TrainConfig":
        """Build a configuration; keys left out take their defaults.

        Raises:
            ValueError: an unknown key (the nearest known one is named) or a bad value.
        """
        known = [field.name for field in fields(cls)]
        for key in plain:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise ValueError(f"unknown configuration key {key!r}: {hint}")
        return cls(**plain)


def first_difference(saved: Mapping[str, Any], config: TrainConfig) -> str | None:
    """Name a key in which a saved configuration trains otherwise than this one; None: in none.

    Raises:
        ValueError: a key is unknown, or was when it was saved.
    """
    missing = [field.name for field in fields(TrainConfig) if field.name not in saved]
    if missing:
        raise ValueError(f"its configuration has no {missing[0]}")
    may_change = MAY_CHANGE | ({"learning_rate"} if config.auto_lr_find else set())  # as found
    now, before = config.to_dict(), TrainConfig.from_dict(saved).to_dict()
    return next((key for key in now if key not in may_change and before[key] != now[key]), None)


def read_config_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file of configuration keys and, under [data], of a table's columns.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        keys = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as TOML ({error})") from error
    if not isinstance(keys.get("data", {}), dict):
        raise ValueError(f"{path}: data = {keys['data']!r}; expected a table [data]")
    return keys


def parse_setting(pair: str) -> tuple[str, Any]:
    """Read key=value; the value as TOML would, a,b,c as a list, anything else as text.

    Raises:
        ValueError: there is no key or no value.
    """
    key, _, text = (part.strip() for part in pair.partition("="))
    if not key or not text:
        raise ValueError(f"setting {pair!r}: expected key=value, such as dropout=0.2")
    for candidate in (text, f"[{text}]"):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            return key, tomllib.loads(f"value = {candidate}")["value"]
    return key, split_names(text) if "," in text else text


def split_names(text: str) -> tuple[str, ...]:
    """Split a,b,c."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


_HUGE = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    "context_length": (1, 100_000),
    "min_context_length": (1, 100_000),
    "prediction_horizon": (1, 100_000),
    "validation_split": (0.01, 0.9),
    "validation_windows": (1, _HUGE),
    "windows_per_epoch": (1, _HUGE),
    "num_workers": (0, 256),
    "patch_length": (1, 1000),
    "hidden_size": (1, 4096),
    "embedding_size": (1, 4096),
    "attention_heads": (1, 4096),
    "dropout": (0.0, 0.9),
    "unknown_rate": (0.0, 1.0),
    "calendar_dropout": (0.0, 0.9),
    "epochs": (1, _HUGE),
    "max_minutes": (0.01, _HUGE),
    "batch_size": (1, 1_000_000),
    "accumulate_grad_batches": (1, 1_000_000),
    "learning_rate": (1e-8, 10.0),
    "ema_decay": (0.0, 0.999999),
    "weight_decay": (0.0, 10.0),
    "gradient_clip_val": (1e-6, 1e6),
    "plateau_patience": (1, _HUGE),
    "early_stopping_patience": (1, _HUGE),
    "random_seed": (0, 2**63 - 1),
    "checkpoint_minutes": (0.0, _HUGE),
    "checkpoint_epochs": (1, _HUGE),
    "log_every_n_steps": (1, _HUGE),
}
_MISFIT = object()


def _coerce(value: Any, hint: Any) -> Any:
    """Return the value in the hinted type, or _MISFIT; an int is a float too, a list a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value if value in arguments else _MISFIT
    if origin is types.UnionType:
        if value is None or value == "none":
            return None
        return _coerce(value, arguments[0])
    if origin is tuple:
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, (list, tuple)):
            return _MISFIT
        items = tuple(_coerce(item, arguments[0]) for item in value)
        return _MISFIT if _MISFIT in items else items
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and hint is not bool:
        return _MISFIT
    return value if isinstance(value, hint) else _MISFIT


def _describe(hint: Any) -> str:
    """Say in words what a key takes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(arguments)
    if origin is types.UnionType:
        return f"{_describe(arguments[0])} or none"
    if origin is tuple:
        return f"a list, each {_describe(arguments[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words[hint]
