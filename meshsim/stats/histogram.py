"""Log-linear latency histogram: bounded memory, bounded relative error, mergeable.

Rule: values below 2**FINE_BITS ns fall in unit bins; above, each octave has 2**FINE_BITS equal
bins, so a bin is at most 2**-FINE_BITS (0.8 %) of its value wide and a quantile interpolated
within a bin is off by at most half of that.  Merging is addition.

References
----------
G. Tene, HdrHistogram (the same bucket scheme).
"""

from __future__ import annotations

from meshsim.jit import kernel_jit_inline

__all__ = ["BIN_COUNT", "FINE_BITS", "SERIES_BIN_COUNT", "bin_index", "series_bin_index"]

FINE_BITS = 7
#: Values are clamped to below 2**42 ns (73 minutes) and resolved from 2**10 ns (1.02 us).
COARSE_BITS = 10
_OCTAVE_COUNT = 42 - COARSE_BITS
_FINE_COUNT = 1 << FINE_BITS
BIN_COUNT = 1 + _OCTAVE_COUNT * _FINE_COUNT
_VALUE_MAX = (1 << 42) - 1
#: A coarser grid for the many edges of a large mesh: four bins merged into one (3.1 %).
_SERIES_MERGE_BITS = 2
SERIES_BIN_COUNT = 1 + ((BIN_COUNT - 1) >> _SERIES_MERGE_BITS)


@kernel_jit_inline
def bin_index(value_ns: int) -> int:
    """Return the bin of `value_ns`; bin 0 holds everything below 2**COARSE_BITS ns."""
    value = min(value_ns, _VALUE_MAX)
    if value < 1 << COARSE_BITS:
        return 0
    # The exponent by a float's binary representation is exact below 2**53.
    octave = 0
    probe = value >> COARSE_BITS
    for shift in (16, 8, 4, 2, 1):
        if probe >> shift:
            probe >>= shift
            octave += shift
    fine = (value >> (COARSE_BITS + octave - FINE_BITS)) - _FINE_COUNT
    return 1 + octave * _FINE_COUNT + fine


@kernel_jit_inline
def series_bin_index(value_ns: int) -> int:
    """Return the bin of `value_ns` in the coarser grid of edges."""
    fine = bin_index(value_ns)
    return 0 if fine == 0 else 1 + ((fine - 1) >> _SERIES_MERGE_BITS)
