"""What a run over several devices must fulfil. Checked before torch is imported."""

from collections.abc import Mapping
from typing import Any

from trilab.config.signatures import has_method
from trilab.errors import ConfigError


def check_devices(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where a run cannot be shared by `trainer.devices`.

    Args:
        values: the whole configuration.
    """
    trainer, data = values["trainer"], values["data"]
    devices, synced = trainer.get("devices") or 1, trainer.get("sync_batchnorm")
    accelerator = values["accelerator"].get("name")
    if synced and (devices == 1 or accelerator in ("cpu", "mps")):
        raise ConfigError(
            "trainer.sync_batchnorm=true works between several GPUs: trainer.devices=2 or more, accelerator=cuda."
        )
    if devices == 1:
        return
    given = f"trainer.devices={devices}"
    if has_method(values["model"]["_target_"], "joined"):  # agents
        raise ConfigError(
            f"{given}: an agent of rl learns on one device, for its updates are too small to be shared. Several at "
            "once: trainer.seeds=[0,1,2], or -m seed=0,1,2."
        )
    if accelerator == "mps":
        raise ConfigError(f"{given}: accelerator=mps is one device. Choose trainer.devices=1.")
    if data.get("storage") == "stream":
        raise ConfigError(
            f"{given}: images that are read from their files in each epoch (data.storage=stream) would be decoded by "
            "every process. Choose data.storage=memory, or trainer.devices=1."
        )
    for key in ("batch_size", "eval_batch_size"):
        if isinstance(data.get(key), int) and data[key] < devices:
            raise ConfigError(
                f"data.{key}={data[key]}: a batch is shared by {given}. Choose at least {devices}, which is a row each."
            )
