"""trilab predict: score raw rows of a table with the best checkpoint of an earlier run

usage: trilab predict run=RUN_ID input=FILE output=FILE [OVERRIDES]
       trilab predict checkpoint=PATH input=FILE output=FILE [OVERRIDES]

The run was of data=recsys/csv, recsys/criteo or another table of clicks. Its checkpoint holds the vocabularies and the
numeric transform that it was trained with, so that a row is scored exactly as in training; values that training never
saw have an index of their own. The input has the columns of the training files, the label or not. The output is a CSV
file with one column, the probability of a 1, row by row; it is written whole or not at all.

  data.format=parquet data.delimiter=";"    where the input is written otherwise than the training files
  data.eval_batch_size=65536                rows that are scored at once
  accelerator=cuda precision=bf16-mixed     where and how it is computed

exit code  0 finished, 1 failed, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM
"""

import tempfile
from pathlib import Path

from trilab.commands.source import SOURCES, find_source
from trilab.config.job import Job, build
from trilab.config.stored import apply_overrides
from trilab.errors import ConfigError, nearest
from trilab.runtime import fast_imports

_FILES = ("input", "output")


def main(argv: list[str]) -> int:
    """Finds the source and the files, and scores."""
    files = {key: value for key, _, value in (argument.partition("=") for argument in argv) if key in _FILES}
    rest = [argument for argument in argv if argument.partition("=")[0] not in _FILES]
    for name in _FILES:
        if not files.get(name):
            typed = next((key for key in (text.partition("=")[0] for text in rest) if nearest(key, [name])), "")
            hint = nearest(typed, [name]) if typed not in SOURCES else ""
            raise ConfigError(f"predict needs {name}=<file>.{hint}")
    source_file, target = Path(files["input"]), Path(files["output"])
    if not source_file.is_file():
        raise ConfigError(f"input={source_file}: there is no such file.")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"output={target}: there is no folder {target.absolute().parent}.")
    with tempfile.TemporaryDirectory(prefix="trilab-predict-") as folder:
        source, overrides = find_source("predict", rest, Path(folder))
        job = apply_overrides(
            Job(source.config, source.choices), [*overrides, "fit=false", "test=true", "+resume=null"]
        )
        accelerator = build(job.config["accelerator"])
        with fast_imports():
            accelerator.prepare()
            from trilab.scoring import score_file

        device = accelerator.device()
        precision = build(job.config["precision"]).on(device)
        rows = score_file(job, source.checkpoint, device, precision.plugin, source_file, target)
    print(f"{rows:,} rows scored: {target}")
    return 0
