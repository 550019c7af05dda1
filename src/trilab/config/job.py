"""One run's configuration as plain data, and what identifies it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from trilab.config.catalog import own_data
from trilab.tracking.secrets import redacted, without_secrets

#: Parts that say where a run is kept, not what it computes.
_NOT_HASHED = ("tracking", "paths", "sweep")
#: Keys that came later than runs which are kept, with the value that stands for how those were made.
_CAME_LATER = {"trainer": {"strategy": "auto", "sync_batchnorm": False}}
#: Overrides that a member of a batch of seeds does not have.
_OF_THE_BATCH = ("seed", "trainer.seeds", "resume")


@dataclass(frozen=True)
class Job:
    """A checked, resolved configuration and where it came from.

    Args:
        config: plain dictionaries, lists and values.
        choices: the option of each group (`model` -> `rl/dqn`).
        overrides: what the user typed.
        swept: what a sweep set in it, in words; empty for a run of its own.
    """

    config: dict[str, Any]
    choices: Mapping[str, str]
    overrides: list[str] = field(default_factory=list)
    swept: str = ""

    @classmethod
    def of(cls, config: DictConfig, choices: Mapping[str, str], overrides: list[str], swept: str = "") -> "Job":
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        return cls({str(key): value for key, value in values.items()}, dict(choices), list(overrides), swept)

    @classmethod
    def of_each_seed(
        cls, config: DictConfig, choices: Mapping[str, str], overrides: list[str], swept: str = ""
    ) -> "list[Job]":
        """A job for each of `trainer.seeds`, as if it were run alone; none where that is null.

        Args:
            config: not yet resolved, so that whatever follows `seed` follows it.
            choices: as of `Job`.
            overrides: as of `Job`.
            swept: as of `Job`.
        """
        jobs = []
        kept = [text for text in overrides if text.partition("=")[0].lstrip("+") not in _OF_THE_BATCH]
        for seed in config.trainer.get("seeds") or []:
            own = config.copy()
            own.seed, own.trainer.seeds, own.resume = seed, None, None
            jobs.append(cls.of(own, choices, [*kept, f"seed={seed}"], f"{swept} seed={seed}".strip() if swept else ""))
        return jobs

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that are equal for runs that compute the same."""
        what = {key: value for key, value in self.config.items() if key not in _NOT_HASHED}
        for part, values in _CAME_LATER.items():
            as_before = [key for key, value in values.items() if what.get(part, {}).get(key) == value]
            if as_before:
                what[part] = {key: value for key, value in what[part].items() if key not in as_before}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def goal(self) -> dict[str, Any]:
        """What it is judged by. A threshold is a figure of the experiment's own data, and says nothing of others."""
        goal = dict(self.config["goal"])
        own = own_data(self.choices.get("experiment", ""))
        if own not in (None, self.choices["data"]):
            given = {text.partition("=")[0].lstrip("+") for text in self.overrides}
            goal |= {key: None for key in ("threshold", "source") if f"goal.{key}" not in given}
        return goal

    @property
    def public(self) -> "Job":
        """The job without passwords and tokens: what is logged and put into checkpoints."""
        return replace(self, config=without_secrets(self.config), overrides=without_secrets(self.overrides))

    @property
    def name(self) -> str:
        """A short name for people: what a sweep set, else first what differs within an experiment."""
        if self.swept:
            return redacted(self.swept)
        model, data = (self.choices[group].rpartition("/")[2] for group in ("model", "data"))
        seeds = self.config["trainer"].get("seeds")
        which = f"seed={self.config['seed']}" if seeds is None else f"seeds={','.join(map(str, seeds))}"
        return f"{which} {self.config['precision']['name']} {model} {data}"


def build(node: Mapping[str, Any], **supplied: Any) -> Any:
    """Builds what a configuration node names, with the arguments that only the program can supply.

    What is built gets plain lists and dictionaries, never a DictConfig.
    """
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    assert isinstance(plain, dict)
    if plain.get("_partial_"):
        return instantiate(plain, _convert_="all")
    return instantiate({**plain, "_partial_": True}, _convert_="all")(**supplied)
