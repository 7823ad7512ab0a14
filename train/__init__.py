"""Training: configuration, the loop, and `TFTTrainer`, which composes them with the data.

Names are imported when first asked for: `cli.py --help` lists the commands here without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.config import TrainConfig
    from train.trainer import TFTTrainer

__all__ = ["TFTTrainer", "TrainConfig"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "train.trainer" if name == "TFTTrainer" else "train.config"
    return getattr(import_module(home), name)
