"""The JIT decorator: what a compiled caller hands over."""

import numpy as np
import pytest

from meshsim.jit import JIT_ENABLED, kernel_jit

ROW = np.dtype([("narrow", "i4"), ("wide", "i8"), ("key", "u8")])


@kernel_jit
def doubled(number):
    return 2 * number


@kernel_jit
def total(rows):
    return doubled(rows["narrow"][0]) + doubled(rows["wide"][0]) + doubled(3)


@kernel_jit
def key(rows):
    return doubled(rows["key"][0])


def test_integers_of_all_widths_share_one_compilation():
    rows = np.array([(2**20, 2**40, 0)], ROW)
    assert total(rows) == 2**21 + 2**41 + 6


@pytest.mark.skipif(not JIT_ENABLED, reason="there is nothing to compile with JIT off")
def test_only_unsigned_words_are_compiled_apart():
    rows = np.array([(1, 1, 2**63)], ROW)
    total(rows)
    assert len(doubled.signatures) == 1
    key(rows)
    assert len(doubled.signatures) == 2
