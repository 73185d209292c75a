"""Streams, heavy tails, identifiers, choices."""

import numpy as np
import pytest

from metamon_assets.simulation.draws import (
    FIRST_TOKEN_NOISE,
    TAIL_INDEX,
    TOTAL_TIME_NOISE,
    choose,
    heavy_tailed,
    hexadecimal,
    short_hash,
    stream,
)


def test_a_stream_depends_on_seed_purpose_and_keys_only() -> None:
    first = stream(1, "calls", 5).random(4)
    assert (first == stream(1, "calls", 5).random(4)).all()
    for other in (stream(2, "calls", 5), stream(1, "texts", 5), stream(1, "calls", 6), stream(1, "calls", -5)):
        assert (first != other.random(4)).all()


@pytest.mark.parametrize("quantiles", [TOTAL_TIME_NOISE, FIRST_TOKEN_NOISE])
def test_noise_has_the_fitted_median_and_a_pareto_tail(quantiles: np.ndarray) -> None:
    noise = np.sort(heavy_tailed(stream(3, "noise").random(2_000_000), quantiles))
    assert np.median(noise) == pytest.approx(1.0, abs=0.005)
    assert np.quantile(noise, 0.95) == pytest.approx(np.exp(quantiles[7]), rel=0.02)
    beyond = noise[-1500:]
    uncut = beyond[beyond < noise[-1] * 0.999]
    # Hill's estimate, with those at the cap counted as censored there.
    index = len(uncut) / np.log(beyond / beyond[0]).sum()
    assert index == pytest.approx(TAIL_INDEX, rel=0.12)


def test_identifiers_are_the_bytes_in_hexadecimal() -> None:
    numbers = np.array([[0x0123456789ABCDEF, 0xFFFFFFFFFFFFFFFF], [1, 2]], dtype=np.uint64)
    expected = [row.tobytes().hex() for row in numbers]
    assert hexadecimal(numbers, 32).to_pylist() == expected
    assert hexadecimal(numbers[:, 1:], 16).to_pylist() == [numbers[0, 1].tobytes().hex(), numbers[1, 1].tobytes().hex()]
    assert hexadecimal(numbers[:0], 32).to_pylist() == []


def test_choices_follow_their_weights() -> None:
    uniform = stream(4, "choices").random(200_000)
    weights = np.array([2.0, 0.0, 5.0, 3.0])
    for chosen in (choose(uniform, weights), choose(uniform, np.tile(weights, (len(uniform), 1)))):
        assert np.bincount(chosen, minlength=4) / len(uniform) == pytest.approx(weights / 10, abs=0.005)


def test_short_hashes_look_like_commits_and_differ() -> None:
    assert short_hash("a", 1) == short_hash("a", 1)
    assert len({short_hash("a", number) for number in range(500)}) == 500
    assert all(len(short_hash("b", number)) == 7 for number in range(50))
