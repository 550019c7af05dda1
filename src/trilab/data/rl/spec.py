"""What an agent needs to know of an environment."""

from dataclasses import dataclass

#: Training environments draw their seeds from here up, evaluation below: no episode is ever seen in both.
FIRST_TRAINING_SEED = 2**30


@dataclass(frozen=True)
class EnvSpec:
    """One environment, not the batch of them."""

    env_id: str
    observation_shape: tuple[int, ...]
    #: "uint8" for images, "float32" for everything else (float64 observations are rounded).
    observation_dtype: str
    num_actions: int
    #: The mean return at which Gymnasium calls the environment solved, where it names one.
    reward_threshold: float | None
