"""One arm of a timing, a process of its own: it trains an epoch whenever it is told to, and says how long it took.

usage: python -m trilab.reports.device_arm OVERRIDES

An epoch is what it is in `trilab train`, callbacks, validation, checkpoints and the logger left out. Between two epochs
the process sleeps. It answers on its standard output, a line of JSON each: when it is ready, with what the timings
depend on and a digest of the weights; and after each line that it reads from its standard input, with the epoch's
seconds, after the first epoch with a digest of the batches too. It ends when its input ends.
"""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trilab.config.compose import compose_unchecked
from trilab.config.job import Job, build
from trilab.runtime import Accelerator, fast_imports


def main(overrides: list[str]) -> None:
    """Trains epoch after epoch, each on demand."""
    # Ctrl-C reaches every process of the terminal; this one is ended by whoever started it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config, choices = compose_unchecked(overrides)
    job = Job.of(config, choices, overrides)
    accelerator: Accelerator = build(job.config["accelerator"])
    with _answers() as answers:
        with fast_imports():
            accelerator.prepare()
            from trilab.lightning import assemble, make_trainer
            from trilab.reports.device_epochs import EpochsOnDemand
            from trilab.timing import machine_settings

        device = accelerator.device()
        precision = build(job.config["precision"]).on(device)
        data, model = assemble([job])
        model.to(memory_format=accelerator.torch_memory_format)
        settings = machine_settings(device, accelerator.memory_format)

        def answer(**content: Any) -> None:
            answers.write(json.dumps(content) + "\n")
            answers.flush()

        epochs = EpochsOnDemand(sys.stdin, answer, {**settings, "precision": precision.name})
        plain = {**job.config["trainer"], "limit_val_batches": 0, "num_sanity_val_steps": 0}
        with tempfile.TemporaryDirectory(prefix="trilab-arm-") as folder:
            trainer = make_trainer(plain, model, device, precision.plugin, False, [epochs], Path(folder))
            trainer.fit(model, datamodule=data)


@contextmanager
def _answers() -> Iterator[IO[str]]:
    """The standard output, for answers alone: whatever else is printed goes to the standard error stream."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        yield answers


if __name__ == "__main__":
    main(sys.argv[1:])
