"""The processes that train together: torchrun's ranks, or this process alone.

Every rank trains its share of each batch; gradients are averaged by DistributedDataParallel. What
the ranks must agree on goes through here, and costs nothing where there is only one.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(minutes=30)  # longest that one rank may read data while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process's number among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and talks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model with its gradients averaged over ranks."""
        if self.size == 1:
            return model
        # Buffers never change in training. PyTorch 2.13 renamed the option.
        new, old = "forward_sync_buffers", "broadcast_buffers"
        known = inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {new if new in known else old: False}
        return DistributedDataParallel(model, **options)

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def most(self, *numbers: float) -> list[float]:
        """Return the largest of each number over ranks."""
        if self.size == 1:
            return list(numbers)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()

    def share(self, thing: Any) -> Any:
        """Return the first rank's thing, on every rank."""
        if self.size == 1:
            return thing
        things = [thing]
        dist.broadcast_object_list(things)
        return things[0]

    def gather(self, thing: Any) -> list[Any]:
        """Return every rank's thing, in their order, on every rank."""
        things = [thing] * self.size
        if self.size > 1:
            dist.all_gather_object(things, thing)
        return things


ALONE = Ranks()


def without_averaging(model: nn.Module, later: bool) -> AbstractContextManager[None]:
    """Return the context in which ranks keep their gradients for a later batch to average."""
    if later and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the ranks that torchrun started, or stay alone, while entered.

    Raises:
        ChildProcessError: another rank was lost while training together.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), size)
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise ChildProcessError(
            f"rank {dist.get_rank()} lost another one ({str(error).splitlines()[0]}); see what "
            "ended that one, then go on with --resume"
        ) from error
    finally:
        dist.destroy_process_group()


def _lost(error: RuntimeError) -> bool:
    """Tell whether an error is of the connection between ranks."""
    return any(word in str(error) for word in ("gloo", "NCCL", "Connection", "ProcessGroup"))
