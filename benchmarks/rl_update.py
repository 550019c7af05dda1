"""One update of CartPole's Q-network, 4-120-84-2 at batch 128: its gradient written out against autograd's.

    python benchmarks/rl_update.py [--agents 1] [--threads 1]

Loss, gradient and fused Adam, without drawing the batch and without the target. The two take turns in one process.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch

from trilab.runtime import prepare_imports

prepare_imports()

from trilab.data.rl.spec import EnvSpec  # noqa: E402 - Lightning must be importable first
from trilab.models.rl.distributional import Scalar  # noqa: E402
from trilab.models.rl.gradients import plain_backward, plain_forward, plain_layers, td_gradient  # noqa: E402
from trilab.models.rl.networks import QNetwork, stack  # noqa: E402

ROUNDS, UPDATES, BATCH = 15, 200, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=int, default=1, help="trained at once as one batch")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    make = functools.partial(
        QNetwork,
        spec=EnvSpec("CartPole-v1", (4,), "float32", 2),
        atoms=1,
        dueling=False,
        dueling_rescale=False,
        noisy=False,
        noisy_sigma=0.5,
        hidden=[120, 84],
        trunk=None,
    )
    lead = (options.agents,) if options.agents > 1 else ()
    observation, target = torch.randn(*lead, BATCH, 4), torch.randn(*lead, BATCH)
    action, returns = torch.randint(2, (*lead, BATCH)), Scalar("mse")

    def update(written_out: bool) -> Callable[[], None]:
        network = stack([make() for _ in range(options.agents)]) if lead else make()
        optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-4, fused=True)
        layers, parameters = plain_layers(network, returns), list(network.parameters())
        assert layers is not None

        def by_hand() -> None:
            with torch.no_grad():
                output, inputs = plain_forward(layers, observation)
                plain_backward(layers, inputs, td_gradient(output, action, target, None, "mse")[1])
            optimizer.step()

        def by_autograd() -> None:
            for parameter in parameters:
                parameter.grad = None
            returns.loss(network(observation), action, target).mean(-1).sum().backward()
            optimizer.step()

        return by_hand if written_out else by_autograd

    contenders = {"autograd": update(False), "written out": update(True)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            for _ in range(UPDATES):
                run()
            if turn:  # the first warms up
                times[name].append((time.perf_counter() - start) / UPDATES * 1e6)
    base = statistics.median(times["autograd"])
    for name, each in times.items():
        median = statistics.median(each)
        print(f"{name:<12} {median:7.0f} us  ({min(each):.0f} to {max(each):.0f})  ratio {median / base:.2f}")


if __name__ == "__main__":
    main()
