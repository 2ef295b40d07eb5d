"""N:M masks as numbers: the list of candidates, the code of every block, and codes packed into few bits."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Bytes, Ints
from prunopt.core.validate import Shown, ints, refuse, require, whole_number

LARGEST_BLOCK = 16  # candidates are listed, C(16, 8) = 12,870 of them
WORD = 62  # bits of a packed word at most, so that codes stay within signed 64-bit integers
CHUNK = 1 << 16  # words unpacked at a time


def pattern_of(pattern: object) -> tuple[int, int]:
    """Return (N, M), 0 < N <= M, of a pattern given as a pair or as text such as ``"2:4"``; ValueError for others."""
    try:
        parts: Any = pattern.split(":") if isinstance(pattern, str) else pattern
        kept, block = (int(part) for part in parts)
    except (TypeError, ValueError):
        kept = block = 0
    require(0 < kept <= block, "pattern", "be (N, M), or text such as '2:4', with 0 < N <= M", pattern)
    return kept, block


def check_pattern(pattern: object) -> tuple[int, int]:
    """Return `pattern_of` a pattern whose masks can be listed: M is 16 at most."""
    kept, block = pattern_of(pattern)
    require(block <= LARGEST_BLOCK, "pattern", f"be N:M with M <= {LARGEST_BLOCK}", pattern)
    return kept, block


@lru_cache(maxsize=32)
def _candidates(kept: int, block: int) -> Bools:
    table = np.zeros((comb(block, kept), block), np.bool_)
    for k, places in enumerate(combinations(range(block), kept)):
        table[k, list(places)] = True
    table.setflags(write=False)
    return table


def candidates(kept: int, block: int) -> Bools:
    """Return all masks that keep ``kept`` of ``block``, (C, block) with C = binomial(block, kept).

    The order, on which saved codes rest, is that of the kept places: for 2:4 it is 1100, 1010, 1001, 0110, 0101, 0011.
    """
    return _candidates(*check_pattern((kept, block)))


def codes_of(mask: ArrayLike, kept: int, block: int) -> Ints:
    """Return the number of the candidate of every block; ValueError where a block is not a candidate.

    Parameters
    ----------
    mask
        Bool, its last axis a multiple of ``block``.
    """
    given = np.asarray(mask, np.bool_)
    require(given.shape[-1] % block == 0, "mask", f"have a last axis that is a multiple of {block}", given)
    blocks = given.reshape(-1, block)
    table = np.full(1 << block, -1, np.int64)
    weights = np.int64(1) << np.arange(block)
    all_masks = candidates(kept, block)
    table[all_masks @ weights] = np.arange(len(all_masks))
    codes: Ints = table[blocks @ weights]
    wrong = np.flatnonzero(codes < 0)
    if len(wrong):
        found = Shown(f"{int(blocks[wrong[0]].sum())} of them in block {wrong[0]} ({len(wrong)} such blocks)")
        refuse("mask", f"keep {kept} of {block} weights in every block", found)
    return codes


def mask_of(codes: ArrayLike, kept: int, block: int, shape: tuple[int, ...]) -> Bools:
    """Return the mask of the given shape whose blocks have the given codes."""
    table = candidates(kept, block)
    numbers = ints("codes", codes, low=0, high=len(table) - 1)
    n_blocks = np.prod(shape, dtype=np.int64) / block
    require(numbers.size == n_blocks, "codes", f"hold {n_blocks:g} numbers for shape {shape}", numbers.size)
    return table[numbers].reshape(shape)


@lru_cache(maxsize=32)
def word_of(n_codes: int) -> tuple[int, int]:
    """Return (codes, bits) of the packed word that wastes least: 17 codes of 2:4 in 44 bits, 0.647 bits per weight."""
    whole_number("n_codes", n_codes, low=1)
    words = ((k, (n_codes**k - 1).bit_length()) for k in range(1, WORD + 1))
    return min((w for w in words if w[1] <= WORD), key=lambda w: (w[1] / w[0], w[0]))


def pack(codes: ArrayLike, n_codes: int) -> Bytes:
    """Return codes below ``n_codes`` as bytes: digits of base ``n_codes``, several to a word of bits.

    Lossless: ``unpack(pack(c, n), len(c), n)`` is c. For 2:4 it takes 44 bits for 17 blocks, within 0.2 % of
    log2(6) / 4 = 0.646 bits per weight.
    """
    given = ints("codes", codes, low=0, high=n_codes - 1).ravel()
    size, bits = word_of(n_codes)
    digits = np.zeros((-(-len(given) // size), size), np.int64)
    digits.ravel()[: len(given)] = given
    words = digits @ (np.int64(n_codes) ** np.arange(size, dtype=np.int64))
    shifts = np.arange(bits, dtype=np.int64)
    parts = [
        np.packbits(((words[k : k + CHUNK, None] >> shifts) & 1).astype(np.bool_).ravel(), bitorder="little")
        for k in range(0, len(words), CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def unpack(packed: ArrayLike, count: int, n_codes: int) -> Ints:
    """Return the ``count`` codes that `pack` has packed; ValueError where the bytes are not such codes."""
    data = np.asarray(packed)
    size, bits = word_of(n_codes)
    n_words = -(-int(count) // size)
    needed = -(-n_words * bits // 8)
    fits = data.dtype == np.uint8 and data.shape == (needed,)
    require(fits, "packed", f"be {needed} bytes for {count} codes", Shown(f"{data.dtype} of shape {data.shape}"))
    powers = np.int64(n_codes) ** np.arange(size, dtype=np.int64)
    weights = np.int64(1) << np.arange(bits, dtype=np.int64)
    out = np.empty((n_words, size), np.int64)
    for k in range(0, n_words, CHUNK):
        # CHUNK words are a whole number of bytes, because CHUNK is a multiple of 8.
        last = min(k + CHUNK, n_words)
        piece = np.unpackbits(data[k * bits // 8 : -(-last * bits // 8)], bitorder="little")[: (last - k) * bits]
        words = piece.reshape(last - k, bits).astype(np.int64) @ weights
        most = int(words.max(initial=0))
        require(most < n_codes**size, "packed", f"hold words of {size} digits of base {n_codes}", most)
        out[k:last] = words[:, None] // powers % n_codes
    codes: Ints = out.ravel()[:count]
    return codes
