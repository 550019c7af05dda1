"""What stands before a Q-network's fully connected layers: from observations to vectors of features."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilab.data.rl.spec import EnvSpec
from trilab.errors import ConfigError, UserError


class NatureCNN(nn.Module):
    """The convolutions of Mnih et al. 2015 (https://doi.org/10.1038/nature14236, "Model architecture"):

        4x84x84 -8x8, stride 4-> 32x20x20 -4x4, stride 2-> 64x9x9 -3x3-> 64x7x7 = 3136 features

    each followed by ReLU. Images are frames by height by width, or height by width by colours; 36x36 is the least.

    Args:
        spec: the environment.
    """

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        shape = spec.observation_shape
        if len(shape) != 3:
            raise UserError(
                f"{spec.env_id} has observations of shape {shape}: the Nature CNN needs images of three axes."
            )
        self.colours_last = spec.frame_stack == 1 and shape[2] <= 4 < shape[0]
        channels, height, width = (shape[2], *shape[:2]) if self.colours_last else shape
        if min(height, width) < 36:
            raise UserError(
                f"{spec.env_id} has images of {height}x{width}, and the Nature CNN needs 36x36 at least: "
                "set model.network.trunk to a network of your own."
            )
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=8, stride=4)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=4, stride=2)
        self.conv3 = nn.Conv2d(64, 64, kernel_size=3)

    def arranged(self, images: Tensor) -> Tensor:
        """The same images, in the memory format of the weights.

        Convolutions would do it themselves, of floats: an update's forward and backward of 32 Atari frames take 8.2 ms
        instead of 9.6 where the bytes are rearranged (one CPU thread, channels_last).
        """
        last = torch.channels_last
        fits = self.colours_last or not self.conv1.weight.is_contiguous(memory_format=last)
        return images if fits else images.contiguous(memory_format=last)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, *shape) in [0, 1] to (batch, features)."""
        x = images.movedim(-1, -3) if self.colours_last else images
        x = F.relu(self.conv1(x), inplace=True)
        x = F.relu(self.conv2(x), inplace=True)
        return F.relu(self.conv3(x), inplace=True).flatten(1)


def make_trunk(spec: EnvSpec, trunk: Callable[..., nn.Module] | None) -> tuple[nn.Module | None, int]:
    """The trunk of an environment's observations, and how many numbers the layers behind it are given.

    Args:
        spec: the environment.
        trunk: makes a trunk from `spec`; None: the Nature CNN for images of three axes, none for everything else.
    """
    shape = spec.observation_shape
    if trunk is None:
        if spec.observation_dtype != "uint8" or len(shape) != 3:
            return None, spec.num_states or int(torch.Size(shape).numel())
        trunk = NatureCNN
    if not callable(trunk) or isinstance(trunk, nn.Module):
        raise ConfigError(f"model.network.trunk={trunk}: expected null, or a _target_ with _partial_: true.")
    made = trunk(spec=spec)
    name = type(made).__name__
    training, zeros = made.training, _zeros(spec, 2)
    try:
        with torch.no_grad():
            features = made.eval()(zeros)  # dropout and batch normalisation are not to notice
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"model.network.trunk: {name} cannot take observations of shape {tuple(zeros.shape)}: {_first_line(error)}"
        ) from error
    made.train(training)
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(
            f"model.network.trunk: {name} makes {got} of observations of shape {tuple(zeros.shape)}; "
            "expected (batch, features)."
        )
    return made, features.shape[1]


def check_stacked(trunk: nn.Module, spec: EnvSpec) -> None:
    """Raises UserError where agents' trunks, stacked, cannot be called as one; leaves them as they were."""
    agents = len(next(iter(trunk.parameters())))
    buffers = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    try:
        with torch.no_grad():
            call_stacked(trunk, _zeros(spec, 2).unsqueeze(0).repeat_interleave(agents, 0))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"trainer.seeds: model.network.trunk={type(trunk).__name__} cannot run as one batch of agents: "
            f"{_first_line(error)} Leave trainer.seeds null and run -m seed=0,1,2 instead."
        ) from error
    for name, buffer in trunk.named_buffers():
        buffer.copy_(buffers[name])


def call_stacked(trunk: nn.Module, x: Tensor) -> Tensor:
    """Each agent's trunk on its own observations: (S, batch, *shape) to (S, batch, features)."""
    # By hand and without `tie_weights`, which loses the parameters of a module that stands in two places.
    own = {
        f"{path}.{name}" if path else name: tensor
        for path, module in trunk.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }

    def call(own: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(trunk, own, (x,), tie_weights=False)

    return torch.vmap(call)(own, x)


def _zeros(spec: EnvSpec, batch: int) -> Tensor:
    dtype = torch.int64 if spec.observation_dtype == "int64" else torch.float32
    return torch.zeros((batch, *spec.observation_shape), dtype=dtype)


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{line}."
