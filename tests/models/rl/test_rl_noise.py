"""Noise by the draw: each agent's own stream, whoever draws beside it."""

import numpy as np
import torch

from trilab.models.rl.noise import BLOCK, NoiseStream


def test_an_agents_stream_is_the_same_alone_and_beside_others():
    together = NoiseStream([3, 8], 5, rows=2, size=7)
    alone = NoiseStream([8], 5, rows=2, size=7)
    for _ in range(BLOCK + 3):
        both = together.draw().clone()
        assert both.shape == (2, 2, 7)
        assert torch.equal(both[1], alone.draw())
        assert not torch.equal(both[0], both[1])


def test_agents_that_wait_keep_their_place():
    together = NoiseStream([3, 8], 5, rows=1, size=4)
    alone = [NoiseStream([seed], 5, rows=1, size=4) for seed in (3, 8)]
    coins = np.random.default_rng(0)
    for _ in range(3 * BLOCK):
        behind = coins.random(2) < 0.6
        drawn = together.draw(behind).clone()
        for agent in np.flatnonzero(behind):
            assert torch.equal(drawn[agent], alone[agent].draw())


def test_the_numbers_are_standard_normal_and_streams_differ():
    draws = torch.stack([NoiseStream([1], stream, rows=50, size=400).draw().clone() for stream in (3, 4)])
    assert abs(draws.mean()) < 0.02
    assert abs(draws.std() - 1) < 0.02
    assert abs(torch.corrcoef(draws.flatten(1))[0, 1]) < 0.03


def test_state_goes_on_with_the_same_draws():
    for before in (0, 5, BLOCK, BLOCK + 5):
        stream = NoiseStream([1, 2], 3, rows=1, size=3)
        for _ in range(before):
            stream.draw()
        again = NoiseStream([9, 9], 3, rows=1, size=3)
        again.load_state_dict(stream.state_dict())
        for _ in range(2 * BLOCK):
            assert torch.equal(stream.draw(), again.draw())
