"""A study as its `study.yaml` asks it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import yaml

from trilab.errors import ConfigError, nearest

#: An override whose value is the id of another run of the study: `model.pretrained_gmf={run:gmf_32}`.
_REFERENCE = re.compile(r"(?P<key>[^=]+)=\{run:(?P<name>[^}]*)\}")
#: Stands for the id of a run that has not been made, so that a configuration that needs it can be checked.
_UNKNOWN_RUN = "f" * 32
#: MLflow tag that holds a run's label.
LABEL_TAG = "study_label"


@dataclass(frozen=True)
class StudyRun:
    """One `trilab train` of a study, or one for each seed.

    Args:
        overrides: its own, beside those that are common to all.
        name: by which later runs of the study refer to it; None where none does.
        label: what the report calls its model; None for the file name of the model's configuration.
    """

    overrides: list[str]
    name: str | None = None
    label: str | None = None

    @property
    def needs(self) -> list[str]:
        """Names of the runs whose ids it is given."""
        return [found["name"] for text in self.overrides if (found := _REFERENCE.fullmatch(text))]

    @property
    def model(self) -> str:
        """What it trains, as far as its own overrides tell: its label, else its model, else its experiment."""
        values = {key: value for key, _, value in (text.partition("=") for text in self.overrides)}
        return self.label or (values.get("model") or values.get("experiment", "")).rpartition("/")[2]


@dataclass(frozen=True)
class Study:
    """What `study.yaml` holds.

    Args:
        name: MLflow experiment that all runs of the study go to.
        baseline: model that the others are compared with, by its label or its file name.
        common: overrides of every run.
        runs: overrides of each run; or, with a name or a label, `{name: ..., label: ..., overrides: [...]}`. An
            override `key={run:NAME}` gets the id of the earlier run of that name, and of the same seed.
        seeds: every run is made once with each; none to leave the seed to the overrides.
        overestimation: of a study of agents: models whose predicted and real values are plotted against each other.
        metrics: of a study of recommenders: test metrics to show, such as `ndcg_10`, the most important first; of a
            comparison: the metric, where it is not the goal's.
        by: of a study of recommenders: what tells the rows of its table apart: `model`, and parameters such as
            `model.network.factors`, for which the last part is enough where it is the only one. A second one that is
            a number is the x axis of the plot. Of a comparison: likewise, as `trilab compare --by`.
        published: of a study of recommenders: others' results, each with the values of `by`, of metrics, and a
            `source`.
        report: what reports on it: `trilab.reports.studies` knows the kinds.
        changes: overrides of every run that come after its own: what `trilab study NAME KEY=VALUE` was given. The runs
            go to an MLflow experiment of their own, so that they never count as those of the study as it was.
    """

    name: str
    baseline: str
    common: list[str]
    runs: list[StudyRun]
    seeds: list[int] = field(default_factory=list)
    overestimation: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    by: list[str] = field(default_factory=lambda: ["model"])
    published: list[dict[str, Any]] = field(default_factory=list)
    report: str = ""
    changes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, without: Sequence[str] = ()) -> Self:
        """The study in a folder.

        Args:
            folder: of the study.
            without: keys that a study of this kind does not have.

        Raises:
            ConfigError: there is none, or it does not hold what it should.
        """
        path = folder / "study.yaml"
        if not path.is_file():
            raise ConfigError(f"{folder}: no study here: there is no file {path}.")
        try:
            content: Any = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: {error}") from None
        allowed = {own.name: own for own in fields(cls) if own.name not in without}
        given = content if isinstance(content, dict) else {}
        for name in given:
            if name not in allowed:
                hint = nearest(str(name), allowed)
                raise ConfigError(f"{path}: no such key '{name}'.{hint} Allowed: {', '.join(sorted(allowed))}.")
        for name, own in sorted(allowed.items()):
            if own.default is MISSING and own.default_factory is MISSING and name not in given:
                raise ConfigError(f"{path}: '{name}' is missing.")
        try:
            study = cls(**{**given, "runs": [_run(item) for item in _list(given, "runs")]})
            study.check()
            return study.changed(study.changes)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def changed(self, changes: Sequence[str]) -> Self:
        """The same study with other settings of every run."""
        if not changes:
            return self
        return replace(self, name=f"{self.name}+{digest(changes)}", changes=list(changes))

    def here(self) -> Self:
        """The study with the runs that this machine makes of it; for most, itself."""
        return self

    @property
    def varied(self) -> list[str]:
        """Keys that the study itself sets, run by run, so that no override may."""
        return ["tracking.experiment_name", *(["seed"] if self.seeds else [])]

    def check(self) -> None:
        """Raises ConfigError for the first thing of a wrong kind, or a run that refers to none before it."""
        texts = [self.name, self.baseline, self.report]
        for name in ("overestimation", "common", "metrics", "by", "changes"):
            texts += _list(vars(self), name)
        texts += [text for run in self.runs for text in [*run.overrides, run.name or "", run.label or ""]]
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise ConfigError(f"{wrong!r} is not a text; put an override with brackets in quotation marks.")
        for seed in _list(vars(self), "seeds"):
            if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
                raise ConfigError(f"seeds: {seed!r} is not a whole number >= 0.")
        for row in _list(vars(self), "published"):
            strange = (
                row if not isinstance(row, dict) else next(iter(set(row) - {*self.by, *self.metrics, "source"}), "")
            )
            if strange:
                hint = nearest(str(strange), [*self.by, *self.metrics])
                raise ConfigError(f"published: '{strange}' is neither in `by` nor in `metrics`, nor `source`.{hint}")
        known: list[str] = []
        for run in self.runs:
            for need in run.needs:
                if need not in known:
                    raise ConfigError(f"{{run:{need}}}: there is no run of that name before it.{nearest(need, known)}")
            if run.name in known:
                raise ConfigError(f"two runs have the name '{run.name}'.")
            known += [run.name] if run.name else []

    @property
    def models(self) -> list[str]:
        """The models, the baseline first, the others in the order of the runs."""
        return list(dict.fromkeys([self.baseline, *(run.model for run in self.runs)]))

    def overrides(self, run: StudyRun, seed: int | None = None, run_ids: Mapping[str, str] | None = None) -> list[str]:
        """All overrides of one of the runs.

        Args:
            run: one of `runs`.
            seed: one of `seeds`.
            run_ids: of the finished runs that it needs, by name; None to check its configuration alone.
        """
        texts = [f"tracking.experiment_name={self.name}"]
        texts += [f"+tracking.tags.{LABEL_TAG}='{run.label}'"] if run.label else []
        texts += [f"seed={seed}"] if seed is not None else []
        for text in [*self.common, *run.overrides, *self.changes]:
            found = _REFERENCE.fullmatch(text)
            run_id = (run_ids or {}).get(found["name"], _UNKNOWN_RUN) if found else ""
            texts.append(f"{found['key']}='{run_id}'" if found else text)  # quoted: an id may look like a number
        return texts


def digest(changes: Sequence[str]) -> str:
    """Eight hexadecimal digits that tell one set of overrides from another."""
    return hashlib.sha256(json.dumps(list(changes)).encode()).hexdigest()[:8]


def _run(item: Any) -> StudyRun:
    if isinstance(item, list):
        return StudyRun(item)
    allowed = [own.name for own in fields(StudyRun)]
    if not isinstance(item, dict) or not isinstance(item.get("overrides"), list):
        raise ConfigError(f"runs: {item!r} is neither a list of overrides nor a mapping with `overrides`.")
    for name in item:
        if name not in allowed:
            raise ConfigError(
                f"runs: no such key '{name}'.{nearest(str(name), allowed)} Allowed: {', '.join(allowed)}."
            )
    if not re.fullmatch(r"[^'\"\\$]*", str(item.get("label") or "")):
        raise ConfigError(f"runs: label={item['label']}: quotation marks, backslashes and $ cannot be part of it.")
    return StudyRun(**item)


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(content[name], list):
        raise ConfigError(f"{name}: {content[name]!r} is not a list.")
    return content[name]
