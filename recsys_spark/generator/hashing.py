"""Random numbers by name: a function of seed, stream and number alone, whoever asks and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint8).reshape(256, 2)


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit numbers; no two give the same (splitmix64, Steele et al. 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def salt(seed: int, stream: str) -> NDArray[np.uint64]:
    """One 64-bit number for a stream of random numbers."""
    name = int.from_bytes(stream.encode().ljust(8, b"\0")[:8], "little")
    return mix(mix(np.array([name], np.uint64)) ^ np.array([seed], np.uint64))


def uniform(seed: int, stream: str, numbers: Any) -> Floats:
    """One number in [0, 1) for each of the given numbers; ``stream`` has 8 letters at most."""
    bits = mix(np.asarray(numbers).astype(np.uint64) ^ salt(seed, stream))
    return (bits >> np.uint64(11)) * 2.0**-53


def hex_ids(letter: str, seed: int, numbers: NDArray[np.uint64]) -> pa.Array:
    """Distinct ids: a letter and 16 hexadecimal digits."""
    mixed = mix(numbers ^ salt(seed, letter)).astype(">u8").view(np.uint8).reshape(-1, 8)
    text = np.empty((len(mixed), 17), np.uint8)
    text[:, 0] = ord(letter)
    text[:, 1:] = _HEX[mixed].reshape(-1, 16)
    ends = np.arange(len(mixed) + 1, dtype=np.int32) * 17
    return pa.StringArray.from_buffers(len(mixed), pa.py_buffer(ends), pa.py_buffer(text))
