"""Data parallelism whose ranks together take the steps that one process would take.

A batch of the data is the batch of all ranks together: each takes its rows of it (`trilab.data.batches`). The loss of a
rank is a mean over its own rows, and DDP averages the ranks' gradients, so where shares are unequal (the last batch of
an epoch) a rank's loss is weighted by its share: the average is then the gradient of the mean over the whole batch.

Rows of tables that a batch looks up have gradients that DDP knows nothing of. They are brought together here, before
anything unscales, clips or applies them: every rank then updates the rows that any rank has looked up, each with the
average of the ranks' gradients, as one process with the whole batch does (`RowOptimizer.gather_rows`).

Each rank applies the same update to the same weights, so they stay equal to the bit on all of them.
"""

from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.launcher import _Launcher
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from trilab.data.batches import EpochBatches
from trilab.data.vision.image_batches import ImageBatches
from trilab.errors import ConfigError
from trilab.models.module import as_module


class Ranks(ClusterEnvironment):
    """Which of how many processes of this machine this one is. All of them are started by trilab.

    Args:
        rank: of this process.
        size: how many there are.
        port: of 127.0.0.1, on which rank 0 listens.
    """

    def __init__(self, rank: int = 0, size: int = 1, port: int = 0) -> None:
        super().__init__()
        self._rank, self._size, self._port = rank, size, port

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._size

    def set_world_size(self, size: int) -> None:
        assert size == self._size

    def global_rank(self) -> int:
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._rank

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


class SharedBatches(DDPStrategy):
    """DDP on shares of the same batches.

    Args:
        place: of this process among the ranks.
        devices: of each rank.
        launcher: starts the other ranks; None in those themselves.
    """

    def __init__(self, place: Ranks, devices: list[torch.device], launcher: _Launcher | None) -> None:
        super().__init__(parallel_devices=devices, cluster_environment=place)
        self._peers = launcher

    def _configure_launcher(self) -> None:
        self._launcher = self._peers

    def setup_distributed(self) -> None:
        with isolate_rng():  # Lightning seeds anew here, and what is drawn would begin as the weights did
            super().setup_distributed()

    def process_dataloader(self, dataloader: object) -> object:
        if isinstance(dataloader, ImageBatches) and dataloader.streamed:
            raise ConfigError(
                f"trainer.devices={self.num_processes}: images that are read from their files in each epoch would be "
                "decoded by every process. Choose data.storage=memory, or trainer.devices=1."
            )
        if isinstance(dataloader, EpochBatches):
            dataloader.share(self.global_rank, self.num_processes)
        elif not isinstance(dataloader, DataLoader):  # of those Lightning gives each rank its part
            raise ConfigError(
                f"trainer.devices={self.num_processes}: the batches of {type(dataloader).__name__} cannot be shared. "
                "Choose trainer.devices=1."
            )
        return dataloader

    def configure_ddp(self) -> None:
        # The optimiser first: one of rows takes the tables over, and DDP would wait for their gradients for ever.
        assert self.lightning_module is not None
        super().setup_optimizers(self.lightning_module.trainer)
        tables = [module for module in self.lightning_module.modules() if getattr(module, "by_row", False)]
        apart = {id(table.weight): table for table in tables}
        names = [name for name, parameter in self.lightning_module.named_parameters() if id(parameter) in apart]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.lightning_module, names)
        for table in tables:
            assert isinstance(table.weight, nn.Parameter)
            torch.distributed.broadcast(table.weight.data, 0)  # as DDP does with what it does not ignore
        super().configure_ddp()
        as_module(self.lightning_module).ranks = self.num_processes

    def setup_optimizers(self, trainer: Trainer) -> None:
        if not self.optimizers:
            super().setup_optimizers(trainer)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        loader = self.lightning_module.trainer.train_dataloader
        if isinstance(loader, EpochBatches):
            as_module(self.lightning_module).share = loader.share_of(args[1])
        return super().training_step(*args, **kwargs)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        assert self.lightning_module is not None
        share = as_module(self.lightning_module).share
        loss = super().backward(closure_loss if share == 1 else closure_loss * share, optimizer, *args, **kwargs)
        for own in self.optimizers:
            if hasattr(own, "gather_rows"):
                own.gather_rows()
        return loss
