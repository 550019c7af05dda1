"""Vectorised environments of which a copy can go on in a later process: those that keep their state in arrays."""

import copy
import zlib
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv

# A copy is steps ahead of the original by so many, enough for some episodes of CartPole to end and others to begin.
PROBE_STEPS = 16


def settings(vector: VectorEnv) -> dict[str, Any]:
    """A vector's attributes that are numbers or texts: as long as it is new, how it was made."""
    plain = bool | int | float | str
    return {name: value for name, value in vars(vector.unwrapped).items() if isinstance(value, plain)}


def take(vector: VectorEnv) -> dict[str, Any] | None:
    """A vector's attributes that are numbers, texts, arrays or random generators, as plain values and tensors.

    Returns:
        None where the vector has a state that is not of this kind.
    """
    if isinstance(vector, AsyncVectorEnv):  # it lives in other processes
        return None
    try:
        probe = _probe(vector)
    except Exception:  # whatever it is made of, it cannot be copied
        return None
    packed = {name: pack(value) for name, value in vars(vector.unwrapped).items()}
    return {"attributes": {name: value for name, value in packed.items() if value is not None}, "probe": probe}


def restore(vector: VectorEnv, state: dict[str, Any]) -> bool:
    """Gives a vector made alike the attributes of the other. False where it then does not go on like the other."""
    inner = vector.unwrapped
    try:
        for name, packed in state["attributes"].items():
            setattr(inner, name, unpack(packed, getattr(inner, name, None)))
        return bool(_probe(vector) == state["probe"])
    except Exception:  # another version of the package may have other attributes
        return False


def _probe(vector: VectorEnv) -> int:
    """A checksum of what a copy of the vector goes through in its next steps."""
    twin = copy.deepcopy(vector)
    actions = np.zeros_like(twin.action_space.sample()) + twin.action_space.start  # type: ignore[attr-defined]
    checksum = 0
    for _ in range(PROBE_STEPS):
        observations, rewards, terminated, truncated, _ = twin.step(actions)
        for array in (observations, rewards, terminated, truncated):
            checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
    return checksum


def pack(value: Any) -> dict[str, Any] | None:
    """A value as containers, numbers, texts and tensors, which alone a checkpoint may hold; None: it is not one."""
    import torch

    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, np.random.Generator):
        return {"generator": value.bit_generator.state}
    return None


def unpack(packed: dict[str, Any], present: Any = None) -> Any:
    """The value again.

    Args:
        packed: of `pack`.
        present: what stands in its place now; a generator's kind is taken from it.
    """
    if "array" in packed:
        return packed["array"].numpy().copy()
    if "generator" in packed:
        present.bit_generator.state = packed["generator"]
        return present
    return packed["plain"]
