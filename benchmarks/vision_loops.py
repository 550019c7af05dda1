"""What trilab's image classifiers are measured against in PyTorch: the usual two ways, and a loop with nothing around.

    python benchmarks/vision_loops.py bare --folder FOLDER --network mlp ...

`vision_throughput.py` starts it, with the data and the network that `vision_data.py` has written into the folder.

- `plain`: a Dataset as torchvision's own, PIL and per-sample transforms (ToTensor, Normalize), a DataLoader, a loop.
- `template`: the same data in a LightningModule with `self.log` and a torchmetrics accuracy, progress bar, CSV logger.
- `bare`: the set as one tensor on the device, batches by index, trilab's network and its settings of the machine. What
  trilab costs beside it is what a framework costs.

All have fused Adam. The first two have networks as tutorials write them, and leave allocator, threads and matrix
products as torch has them.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from vision_data import BATCH, CLASSES, LR, Pictures, orders
from vision_gate import Gate

from trilab.runtime import Accelerator, import_torchvision, set_allocator
from trilab.timing import clock, peak_memory_mb, reset_peak_memory

#: As tutorials write them.
NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    "mnist_cnn": lambda: nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1600, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
    ),
    "cifar_cnn": lambda: nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
    ),
}


class Task:
    """A network with its initial weights, its data and how it is trained."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.accelerator)
        self.pictures = Pictures.read(options.folder)
        self.network: nn.Module = torch.load(options.folder / "network.pt", weights_only=False)
        if options.contender != "bare":
            weights, self.network = self.network.parameters(), NETWORKS[options.network]()
            for parameter, weight in zip(self.network.parameters(), weights, strict=True):
                parameter.data.copy_(weight)
        self.network.to(self.device)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16-mixed"):
            return F.cross_entropy(self.network(images), labels)

    def adam(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=LR, fused=True)

    @property
    def steps_of_an_epoch(self) -> int:
        return -(-len(self.pictures.train) // BATCH)

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 to float32, both (batch, channels, height, width)."""
        mean, std = (
            torch.from_numpy(v).view(-1, 1, 1).to(self.device) for v in (self.pictures.mean, self.pictures.std)
        )
        return images.to(torch.float32).sub_(255 * mean).mul_(1 / (255 * std))

    @torch.inference_mode()
    def accuracy(self) -> float:
        """Of the test images, by the weights as they are."""
        hits = 0
        for first in range(0, len(self.pictures.test), 2000):
            images = torch.from_numpy(self.pictures.test[first : first + 2000]).to(self.device)
            labels = torch.from_numpy(self.pictures.test_labels[first : first + 2000]).to(self.device)
            hits += int((self.network(self.normalized(images)).argmax(1) == labels).sum())
        return hits / len(self.pictures.test)


def bare(task: Task) -> Iterator[Tensor]:
    """Trains for ever; gives each step's loss."""
    accelerator = Accelerator(task.options.accelerator, threads=task.options.threads)
    accelerator.prepare()
    task.network.to(memory_format=accelerator.torch_memory_format)
    pixels = torch.from_numpy(task.pictures.train.transpose(0, 2, 3, 1).copy()).to(task.device)  # (n, h, w, c)
    labels = torch.from_numpy(task.pictures.train_labels).to(task.device)
    mean, std = (torch.from_numpy(v).to(task.device) for v in (task.pictures.mean, task.pictures.std))
    shift, scale = 255 * mean, 1 / (255 * std)
    optimizer = task.adam()
    for order in orders(len(pixels), task.options.seed):
        for rows in order.to(task.device).split(BATCH):
            images = pixels.index_select(0, rows).to(torch.float32).sub_(shift).mul_(scale).permute(0, 3, 1, 2)
            loss = task.loss(images, labels.index_select(0, rows))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield loss


class PictureSet(Dataset):
    """As torchvision's MNIST and CIFAR10 give an image: an array of the set to PIL, then the transform."""

    def __init__(self, pictures: Pictures) -> None:
        import_torchvision()
        from torchvision import transforms

        self.data = pictures.train.transpose(0, 2, 3, 1).squeeze()  # (n, h, w) or (n, h, w, 3)
        self.targets = pictures.train_labels.tolist()
        scale = transforms.Normalize(tuple(pictures.mean.tolist()), tuple(pictures.std.tolist()))
        self.transform = transforms.Compose([transforms.ToTensor(), scale])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


class Shuffled(Sampler):
    """trilab's order of each epoch."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._orders = rows, orders(rows, seed)

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        yield from next(self._orders).tolist()


def loader(task: Task) -> DataLoader:
    options, data = task.options, PictureSet(task.pictures)
    return DataLoader(
        data,
        BATCH,
        sampler=Shuffled(len(data), options.seed),
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=options.accelerator == "cuda",
    )


def plain(task: Task) -> Iterator[Tensor]:
    """Trains for ever; gives each step's loss."""
    batches, optimizer = loader(task), task.adam()
    while True:
        for images, labels in batches:
            images, labels = images.to(task.device, non_blocking=True), labels.to(task.device, non_blocking=True)
            optimizer.zero_grad()
            loss = task.loss(images, labels)
            loss.backward()
            optimizer.step()
            yield loss


def measure(task: Task, steps: Iterator[Tensor]) -> None:
    """Warms up, then does a window whenever it is asked."""
    options = task.options
    gate = Gate(options.requests, options.replies)
    loss = next(steps).item()
    for _ in range(options.warmup - 1):
        next(steps)
    gate.reply(loss=loss)
    reset_peak_memory(task.device)
    while gate.wait():
        start = clock(task.device)
        for _ in range(options.steps):
            next(steps)
        gate.reply(seconds=clock(task.device) - start, peak_mb=peak_memory_mb(task.device))


def train(task: Task, steps: Iterator[Tensor]) -> None:
    """Trains some epochs and prints the accuracy."""
    for _ in range(task.options.epochs * task.steps_of_an_epoch):
        next(steps)
    print(json.dumps({"accuracy": task.accuracy()}))


def template(task: Task) -> None:
    import_torchvision()  # Lightning and torchmetrics import it themselves, and cannot beside a CPU build of torch
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import CSVLogger
    from torchmetrics import Accuracy
    from vision_windows import Windows

    class Template(pl.LightningModule):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network
            self.accuracy = Accuracy(task="multiclass", num_classes=CLASSES)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            images, labels = batch
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels)
            self.accuracy(logits, labels)
            self.log("train_loss", loss, prog_bar=True)
            self.log("train_accuracy", self.accuracy, on_step=False, on_epoch=True, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.adam()

    options = task.options
    trainer = pl.Trainer(
        accelerator="gpu" if options.accelerator == "cuda" else options.accelerator,
        devices=1,
        precision="32-true" if options.precision == "fp32" else "bf16-mixed",
        max_epochs=-1,
        logger=CSVLogger("."),
        callbacks=[Windows(options.requests, options.replies, options.warmup, options.steps)],
    )
    trainer.fit(Template(task.network), loader(task))


LOOPS = {"bare": bare, "plain": plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contender", choices=[*LOOPS, "template"])
    parser.add_argument("--folder", type=Path, required=True, help="with data.npz and network.pt")
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16-mixed"), default="fp32")
    parser.add_argument("--accelerator", default="cpu", help="torch's device")
    parser.add_argument("--threads", type=int, help="torch's; default: all cores")
    parser.add_argument("--workers", type=int, default=0, help="of the data loader")
    parser.add_argument("--allocator", choices=("keep", "default"), default="default", help="glibc's, of `plain`")
    parser.add_argument("--seed", type=int, default=1, help="of the batches' order")
    parser.add_argument("--epochs", type=int, help="train these, print the test accuracy, and measure nothing")
    parser.add_argument("--warmup", type=int, default=1, help="steps before the first window")
    parser.add_argument("--steps", type=int, default=1, help="of a window")
    parser.add_argument("--requests", type=int, help="file descriptor")
    parser.add_argument("--replies", type=int, help="file descriptor")
    options = parser.parse_args()
    if options.contender != "bare":
        if options.threads:
            torch.set_num_threads(options.threads)
        if options.allocator == "keep":
            set_allocator("keep")
    task = Task(options)
    if options.contender == "template":
        template(task)
    else:
        (train if options.epochs else measure)(task, LOOPS[options.contender](task))


if __name__ == "__main__":
    main()
