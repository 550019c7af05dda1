"""Raw rows to probabilities, with what a checkpoint holds: the model, and what its ids mean."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from pytorch_lightning.plugins.precision import Precision

from trilab.callbacks.identity import read_checkpoint
from trilab.config.job import Job, build
from trilab.data.recsys.raw_rows import raw_rows
from trilab.data.recsys.tables import ClickTable, preprocessing_of
from trilab.errors import ConfigError
from trilab.models.module import Module
from trilab.models.schedules import Constant
from trilab.pretrained import with_checkpoints


class Scorer:
    """A trained model with its preprocessing.

    Args:
        job: the run's configuration, of which nothing is trained.
        checkpoint: of the run.
        device: where it is computed.
        precision: how.

    Raises:
        ConfigError: the checkpoint is not of a table of clicks.
    """

    def __init__(self, job: Job, checkpoint: Path, device: str, precision: Precision) -> None:
        content = read_checkpoint(checkpoint, "checkpoint")
        if ClickTable.__qualname__ not in content:
            raise ConfigError(
                f"predict scores raw rows of a table of clicks, such as data=recsys/csv, and the run had "
                f"data={job.choices['data']}."
            )
        self.preprocessing = preprocessing_of(content[ClickTable.__qualname__])
        self.data: ClickTable = build(job.config["data"])
        self._model: Module = build(
            with_checkpoints(job, Path()).config["model"],
            spec=self.data.spec_of(self.preprocessing),
            optimizer=build(job.config["optimizer"]),
            schedule=Constant(),
        )
        self._model.load_state_dict(content["state_dict"])
        self._model.to(device).eval()
        self._device = torch.device(device)
        self._precision = precision

    def score(self, table: pa.Table) -> np.ndarray:
        """Raw rows, by the columns' names, to (rows,) probabilities in float64."""
        ids, dense = self.preprocessing.transform(table)
        with torch.inference_mode(), self._precision.forward_context():
            inputs = torch.from_numpy(ids).to(self._device), torch.from_numpy(dense).to(self._device)
            logits: torch.Tensor = self._model(*inputs)
        return logits.float().cpu().double().sigmoid().numpy()


def score_file(job: Job, checkpoint: Path, device: str, precision: Precision, source: Path, target: Path) -> int:
    """Writes the probabilities of a file's rows; the number of rows.

    Raises:
        ConfigError: the checkpoint is not of a table of clicks.
        UserError: something is wrong with the file. Nothing is written then.
    """
    scorer = Scorer(job, checkpoint, device, precision)
    rows = 0
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.absolute().parent)
    os.close(handle)
    try:
        with pa.csv.CSVWriter(name, pa.schema({"probability": pa.float64()})) as writer:
            for table in _chunks(raw_rows(source, scorer.data.form), scorer.data.eval_batch_size):
                writer.write_table(pa.table({"probability": scorer.score(table)}))
                rows += table.num_rows
        Path(name).chmod(0o644)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)
    return rows


def _chunks(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    for table in tables:
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows)
