"""Training: configuration, the loop, and `TFTTrainer`, which composes them with the data."""

from train.config import TrainConfig
from train.trainer import TFTTrainer

__all__ = ["TFTTrainer", "TrainConfig"]
