"""Ranges for constructors that are not ours and whose own annotations say less than they accept."""

from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import StringConstraints

from trilab.ranges import Fraction, FractionBelowOne, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

_COUNT_OR_SHARE = NonNegativeInt | Fraction | None
_DURATION = Annotated[str, StringConstraints(pattern=r"^\d+:\d\d:\d\d:\d\d$")]
_AT_LEAST_MINUS_ONE = Annotated[int, Ge(-1)]

_ADAM: dict[str, Any] = {
    "lr": PositiveFloat,
    "betas": tuple[FractionBelowOne, FractionBelowOne],
    "eps": PositiveFloat,
    "weight_decay": NonNegativeFloat,
}

#: By target and parameter; a parameter that is not named here keeps the annotation of its source.
ANNOTATIONS: dict[str, dict[str, Any]] = {
    "torch.optim.Adam": _ADAM,
    "torch.optim.AdamW": _ADAM,
    "torch.optim.SGD": {
        "lr": PositiveFloat,
        "momentum": FractionBelowOne,
        "weight_decay": NonNegativeFloat,
    },
    "pytorch_lightning.Trainer": {
        "max_epochs": _AT_LEAST_MINUS_ONE | None,
        "min_epochs": NonNegativeInt | None,
        "max_steps": _AT_LEAST_MINUS_ONE,
        "min_steps": NonNegativeInt | None,
        "devices": PositiveInt,
        "strategy": Literal["auto", "ddp"],
        "num_nodes": Literal[1],
        "limit_train_batches": _COUNT_OR_SHARE,
        "limit_val_batches": _COUNT_OR_SHARE,
        "limit_test_batches": _COUNT_OR_SHARE,
        "overfit_batches": NonNegativeInt | Fraction,
        "fast_dev_run": bool | NonNegativeInt,
        "check_val_every_n_epoch": PositiveInt | None,
        "val_check_interval": PositiveInt | PositiveFloat | str | None,
        "num_sanity_val_steps": _AT_LEAST_MINUS_ONE | None,
        "log_every_n_steps": PositiveInt,
        "accumulate_grad_batches": PositiveInt,
        "gradient_clip_val": NonNegativeFloat | None,
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
        "deterministic": bool | Literal["warn"] | None,
        "max_time": _DURATION | None,
        "profiler": Literal["simple", "advanced", "pytorch"] | None,
        "reload_dataloaders_every_n_epochs": NonNegativeInt,
    },
    "pytorch_lightning.callbacks.ModelCheckpoint": {
        "monitor": str | None,
        "mode": Literal["min", "max"],
        "save_top_k": _AT_LEAST_MINUS_ONE,
    },
    "pytorch_lightning.callbacks.EarlyStopping": {
        "monitor": str,
        "mode": Literal["min", "max"],
        "patience": PositiveInt,
        "min_delta": NonNegativeFloat,
    },
}
