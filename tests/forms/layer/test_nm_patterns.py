"""N:M masks as numbers, and packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunopt.forms.layer.nm_patterns import candidates, check_pattern, codes_of, mask_of, pack, unpack, word_of


def test_the_order_of_candidates_is_fixed() -> None:
    text = ["".join(str(int(b)) for b in row) for row in candidates(2, 4)]
    assert text == ["1100", "1010", "1001", "0110", "0101", "0011"]
    assert len(candidates(4, 8)) == 70


@pytest.mark.parametrize("pattern", ["2:4", (2, 4), [2, 4]])
def test_patterns_are_read(pattern: object) -> None:
    assert check_pattern(pattern) == (2, 4)


@pytest.mark.parametrize("pattern", ["4:2", "2", "a:b", (0, 4), (2, 17), None, 3])
def test_bad_patterns_are_named(pattern: object) -> None:
    with pytest.raises(ValueError, match="pattern must be"):
        check_pattern(pattern)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(0, 400), st.integers(0, 2**31))
def test_packing_is_lossless(n_codes: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, n_codes, count)
    packed = pack(codes, n_codes)
    assert packed.dtype == np.uint8
    assert np.array_equal(unpack(packed, count, n_codes), codes)


def test_packing_a_million_blocks_takes_0_65_bits_a_weight() -> None:
    codes = np.random.default_rng(0).integers(0, 6, 1_200_000)
    packed = pack(codes, 6)
    assert word_of(6) == (17, 44)
    assert 8 * len(packed) / (4 * len(codes)) < 0.6472
    assert np.array_equal(unpack(packed, len(codes), 6), codes)


def test_masks_and_codes_are_each_others_inverse() -> None:
    codes = np.random.default_rng(1).integers(0, 70, (6, 4))
    mask = mask_of(codes.ravel(), 4, 8, (6, 32))
    assert (mask.reshape(6, 4, 8).sum(axis=2) == 4).all()
    assert np.array_equal(codes_of(mask, 4, 8), codes.ravel())


def test_wrong_blocks_codes_and_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 of them in block 1"):
        codes_of(np.array([[1, 1, 0, 0, 1, 1, 1, 0]], bool), 2, 4)
    with pytest.raises(ValueError, match="a multiple of 4"):
        codes_of(np.ones((2, 6), bool), 2, 4)
    with pytest.raises(ValueError, match="codes"):
        mask_of([6], 2, 4, (1, 4))
    with pytest.raises(ValueError, match="codes"):
        mask_of([1, 2], 2, 4, (1, 4))
    with pytest.raises(ValueError, match="codes"):
        pack([-1], 6)
    with pytest.raises(ValueError, match="packed"):
        unpack(np.zeros(3, np.uint8), 17, 6)
    with pytest.raises(ValueError, match="words of 17 digits"):
        unpack(np.full(6, 255, np.uint8), 17, 6)
