"""Changes to a configuration that was composed earlier and is kept with a run."""

from collections.abc import Sequence

from hydra import initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from trilab.config.allowed import check_stored
from trilab.config.check import check
from trilab.config.compose import CONFIG_MODULE, check_choices, option_alone, set_value
from trilab.config.diagnose import Options, diagnose
from trilab.config.job import Job
from trilab.errors import ConfigError

_WHOLE = ("experiment", "model")


def apply_overrides(job: Job, overrides: Sequence[str]) -> Job:
    """A job with overrides applied: an option of a group replaces that part, a value replaces that value.

    Args:
        job: as it was run. It may build only what `trilab.config.allowed` names; the overrides are the user's own.
        overrides: `accelerator=cuda`, `data.batch_size=512`.

    Raises:
        ConfigError: an override that cannot be applied to the stored configuration.
    """
    check_stored(job.config, "the stored configuration")
    config = OmegaConf.create(job.config)
    choices = dict(job.choices)
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        known = Options()
        try:
            parsed = [known.parser.parse_override(text) for text in overrides]
        except HydraException as error:
            raise diagnose(error, overrides) from None
    OmegaConf.set_struct(config, True)
    for override, text in zip(parsed, overrides, strict=True):
        key = override.key_or_group
        if key in _WHOLE:
            raise ConfigError(f"{text}: a stored run is evaluated with the {key} it was trained with.")
        if override.is_sweep_override():
            raise ConfigError(f"{text}: one value at a time.")
        if key in known.groups:
            choices[key] = str(override.value())
            config[key] = option_alone(key, choices[key])
        else:
            set_value(config, key, override.value(), adding=override.is_add() or override.is_force_add())
    check_choices(choices)
    check(config)
    return Job.of(config, choices, list(overrides))
