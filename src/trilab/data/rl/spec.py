"""What an agent needs to know of an environment."""

from dataclasses import dataclass
from typing import Literal

#: Training environments draw their seeds from here up, evaluation below: no episode is ever seen in both.
FIRST_TRAINING_SEED = 2**30


@dataclass(frozen=True)
class EnvSpec:
    """One environment, not the batch of them."""

    env_id: str
    #: () where the observation is the number of a state.
    observation_shape: tuple[int, ...]
    #: "uint8" for images, "int64" for the number of a state, "float32" for everything else (float64 is rounded).
    observation_dtype: Literal["float32", "uint8", "int64"]
    num_actions: int
    #: How many states there are, where the observation is the number of one.
    num_states: int | None = None
    #: The observation's first axis is this many consecutive frames, the newest last; 1: it is no stack of frames.
    frame_stack: int = 1
    #: The mean return at which Gymnasium calls the environment solved, where it names one.
    reward_threshold: float | None = None
