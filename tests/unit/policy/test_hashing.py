import numpy as np
import pytest
import xxhash

from meshsim.policy.hashing import combine, xxh64, xxh64_bytes


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_equals_the_reference_for_every_length_class(seed):
    # Tails of 1, 4 and 8 bytes, and stripes of 32, meet in lengths up to 100.
    rng = np.random.default_rng(5)
    for length in [*range(101), 1000]:
        data = rng.integers(0, 256, length, np.uint8)
        expected = xxhash.xxh64_intdigest(data.tobytes(), seed)
        assert int(xxh64_bytes(data, 0, len(data), np.uint64(seed))) == expected, length


def test_text_is_hashed_as_utf8():
    assert xxh64("Grüße") == xxhash.xxh64_intdigest("Grüße".encode())
    assert xxh64("user-1", 1) != xxh64("user-1", 0)


def test_known_values():
    # xxHash specification 0.1.1: the empty input with seed 0.
    assert xxh64("") == 0xEF46DB3751D8E999


def test_combining_rotates_what_is_there_and_mixes_the_next_in():
    # Envoy, source/common/http/hash_policy.cc: (old << 1 | old >> 63) ^ new.
    assert combine([]) == 0
    assert combine([2**63 + 1]) == 2**63 + 1
    assert combine([2**63 + 1, 4]) == 3 ^ 4
    assert combine([7, 7]) != 0
