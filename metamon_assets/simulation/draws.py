"""Randomness of the sample world: streams by seed and purpose, heavy-tailed noise, identifiers.

Every figure of day N comes from streams named by (seed, day, purpose), never from a generator that another day
has used: so days can be made alone and in any order. Parameters of the noise were fitted to the real calls of
thefastest.ai (5,985 calls, 139 models); only those parameters stand here.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_CUMULATIVE = np.array([0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
# ln(value / the model's median) at those probabilities, over the models with 40 calls or more; the first is extended by eye.
TOTAL_TIME_NOISE = np.array([-1.0, -0.67, -0.41, -0.14, 0.0, 0.21, 0.55, 0.86, 1.33, 2.84])
FIRST_TOKEN_NOISE = np.array([-1.4, -0.96, -0.67, -0.22, 0.0, 0.30, 0.80, 1.15, 1.72, 3.21])
TAIL_INDEX = 2.1  # Hill's estimate over the largest 2 %: 2.2 for total time, 2.0 for the first token
_LARGEST = 4.2  # ln; a call that would take longer is one that hangs, which is modelled apart

_HEX = np.frombuffer("".join(f"{value:02x}" for value in range(256)).encode(), dtype="<u2")
_EPOCH_SHIFT = 1 << 20  # keeps the day's part of a seed positive


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """The generator for one purpose. ``keys`` (day, slot, …) may be negative down to -2**20."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, crc32(purpose.encode()), *(key + _EPOCH_SHIFT for key in keys)]))
    )


def heavy_tailed(uniform: Floats, quantiles: Floats) -> Floats:
    """Noise with median 1 from uniform numbers: the fitted quantiles, then a Pareto tail with TAIL_INDEX."""
    noise = np.interp(uniform, _CUMULATIVE, quantiles)
    far = uniform > _CUMULATIVE[-1]
    noise[far] += np.log((1 - _CUMULATIVE[-1]) / np.maximum(1 - uniform[far], 1e-12)) / TAIL_INDEX
    return np.exp(np.minimum(noise, _LARGEST))


def hexadecimal(numbers: NDArray[np.uint64], length: int) -> pa.Array:
    """Text of ``length`` (16 or 32) hexadecimal digits for each row of 64-bit numbers (one or two columns)."""
    rows = len(numbers)
    digits = _HEX[np.ascontiguousarray(numbers).view(np.uint8)]
    offsets = np.arange(0, (rows + 1) * length, length, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))


def short_hash(*parts: object) -> str:
    """Seven hexadecimal digits that look like a commit, the same for the same parts."""
    value = int(stream(crc32(repr(parts).encode()), "hash").integers(16**7))
    return f"{value:07x}"


def choose(uniform: Floats, weights: Floats) -> Ints:
    """An index per row: ``weights`` is one distribution for all rows, or one per row; they need not sum to 1."""
    cumulative = np.cumsum(weights, axis=-1)
    if cumulative.ndim == 1:
        return np.searchsorted(cumulative[:-1], uniform * cumulative[-1], side="right").astype(np.int64)
    return (uniform[:, None] * cumulative[:, -1:] >= cumulative[:, :-1]).sum(axis=1)
