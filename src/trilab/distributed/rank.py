"""Ranks 1 and up: `python -m trilab.distributed.rank`, with its order as a line of JSON on the standard input.

It goes the same way as rank 0 in `trilab.train`, without a run in MLflow. Its input is rank 0's hold on it: where that
ends, in whatever way rank 0 did, this process ends at once.
"""

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from trilab.config.job import Job, build
from trilab.errors import UserError, say


def main() -> int:
    """Reads the order and carries it out."""
    order = json.loads(sys.stdin.readline())
    ready = os.dup(1)  # rank 0 listens there for one line; all that is printed goes to the rank's file
    os.dup2(2, 1)
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    sys.path += [folder for folder in order["path"] if folder not in sys.path]
    try:
        take_part(order, ready)
    except UserError as error:
        say(str(error))
        return 1
    return 0


def _end_with_rank_0() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock an interpreter that ends would want
        pass
    os._exit(1)


def take_part(order: dict[str, Any], ready: int) -> None:
    """Trains and tests with the other ranks.

    Args:
        order: rank 0's.
        ready: file descriptor that rank 0 listens on.
    """
    job = Job(order["config"], order["choices"], order["overrides"])
    config, rank, size = job.config, order["rank"], order["size"]
    folder = Path(order["folder"])
    accelerator = build(config["accelerator"])
    accelerator.prepare(size)
    from trilab.distributed.peers import devices, prepare_network
    from trilab.distributed.strategy import Ranks, SharedBatches
    from trilab.lightning import assemble, callbacks_of, fit_and_test, make_trainer, seed_everything

    prepare_network()
    device = accelerator.device()
    precision = build(config["precision"]).on(device)
    fetched = folder / f"pretrained_{rank}"
    if any(str(key).startswith("pretrained_") and value for key, value in config["model"].items()):
        from trilab.pretrained import with_checkpoints

        job = with_checkpoints(job, fetched)
    try:
        data, model = assemble([job])
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    model.to(memory_format=accelerator.torch_memory_format)
    # The weights are those of rank 0. What is drawn from here on, as by dropout, is of this rank's own rows.
    seed_everything(int(np.random.SeedSequence((config["seed"], rank)).generate_state(1)[0]))
    trainer = make_trainer(
        config["trainer"],
        model,
        device,
        precision.plugin,
        False,
        callbacks_of(config["callbacks"], 0.0, {}, [], []),
        folder,
        SharedBatches(Ranks(rank, size, order["port"]), devices(device, size), None),
    )
    os.write(ready, b"ready\n")
    os.close(ready)
    resume, checkpoint = (Path(order[name]) if order[name] else None for name in ("resume", "checkpoint"))
    fit_and_test(trainer, model, data, config, resume, checkpoint)


if __name__ == "__main__":
    sys.exit(main())
