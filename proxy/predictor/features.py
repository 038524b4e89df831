"""A text as numbers: how often its words, pairs of words and runs of characters occur, hashed into a fixed width.

Serving needs no vocabulary and no scikit-learn, only these hashes. They are part of a stored model's format: a change
of anything here is a new `FORMAT` in `proxy.predictor.model`.
"""

import re
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

WORDS, RUNS = 1 << 14, 1 << 14
WIDTH = WORDS + RUNS
"""Features of words come first, those of runs of characters after them."""

_LONGEST = 4_000
_WORD = re.compile(r"\\?[a-z]+|\d+|[^\sa-z\d]")
_LENGTHS = (3, 4, 5)
_FACTOR, _MIX = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)


def features(text: str) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The places below WIDTH, ascending, that a text's first 4,000 characters touch, and 1 + ln of how often each."""
    plain = text[:_LONGEST].lower()
    words = _WORD.findall(plain)
    named = [*words, *map(" ".join, pairwise(words)), f" {len(plain).bit_length()} bits long"]
    hashed = [np.array([crc32(name.encode(errors="replace")) % WORDS for name in named], dtype=np.intp)]
    hashed += [WORDS + _runs(plain, length) for length in _LENGTHS]
    places, counts = np.unique(np.concatenate(hashed), return_counts=True)
    return places, (1 + np.log(counts)).astype(np.float32)


def _runs(text: str, length: int) -> NDArray[np.intp]:
    """The hashes of all runs of `length` characters, below RUNS."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype=np.uint32).astype(np.uint64)
    count = max(0, len(codes) - length + 1)
    hashed = np.full(count, length, dtype=np.uint64)
    # unsigned arithmetic wraps around, which is what a hash wants
    for place in range(length):
        hashed = (hashed ^ codes[place : place + count]) * _FACTOR
    return ((hashed * _MIX) >> np.uint64(40)).astype(np.intp) % RUNS
