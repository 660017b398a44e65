"""Distributions and arrival processes as rows: what the workload draws from.

A DISTRIBUTION row is immutable; an ARRIVAL row (one a traffic class) also holds the position
of its process in time.  Both keep their lists of numbers in one shared float64 array,
``values[start : start + count]``.  The draws are in `meshsim.workload`.
"""

from __future__ import annotations

import numpy as np

# Families of distributions (field `kind` of DISTRIBUTION_DTYPE).
CONSTANT = 0
EXPONENTIAL = 1
LOGNORMAL = 2
GAMMA = 3
PARETO_BOUNDED = 4
HYPEREXPONENTIAL = 5
EMPIRICAL = 6
IMPAIRED = 7  # a wire of which `start` is the IMPAIRMENT row

DISTRIBUTION_DTYPE = np.dtype(
    [
        ("kind", "i4"),
        ("start", "i4"),  # HYPEREXPONENTIAL: (cumulative probability, mean) pairs
        ("count", "i4"),  # EMPIRICAL: sorted values; number of pairs or of values
        ("mean_ns", "f8"),  # of every family
        ("location", "f8"),  # LOGNORMAL: mean of the logarithm; PARETO_BOUNDED: low [ns]
        ("scale", "f8"),  # LOGNORMAL: sigma; GAMMA: [ns]; PARETO_BOUNDED: 1 - (low/high)**shape
        ("shape", "f8"),  # GAMMA, PARETO_BOUNDED
    ],
    align=True,
)

# Arrival processes (field `kind` of ARRIVAL_DTYPE).
NO_ARRIVALS = 0  # closed loop, or a process that never fires
POISSON = 1
RENEWAL = 2
BATCH = 3
MODULATED_POISSON = 4
PIECEWISE = 5  # Piecewise and, with a period, Diurnal
RECORDED = 6

ARRIVAL_DTYPE = np.dtype(
    [
        ("kind", "i4"),
        ("distribution", "i4"),  # RENEWAL: DISTRIBUTION row of the interval, else NO_INDEX
        ("start", "i4"),  # first entry in `values`
        ("count", "i4"),  # phases, points or times
        ("cursor", "i4"),  # PIECEWISE: segment that holds now; RECORDED: next time
        ("phase", "i4"),  # MODULATED_POISSON: the phase that holds until phase_end_ns
        ("geometric", "i4"),  # BATCH: 1 if the size is geometric
        ("rate_per_ns", "f8"),  # POISSON; BATCH: of batches
        ("multiplier", "f8"),  # scales the rate; 1 nominal, 0 off
        ("batch_size", "f8"),  # mean
        ("period_ns", "i8"),  # PIECEWISE: 0 if not periodic
        ("period_count", "f8"),  # PIECEWISE: expected arrivals in one period
        ("phase_number", "i8"),  # MODULATED_POISSON: phases since the start
        ("phase_end_ns", "i8"),
        ("key", "u8"),  # MODULATED_POISSON: draw key of the sojourns; 0: not begun
        ("next_ns", "i8"),  # the arrival announced last
    ],
    align=True,
)

#: What is wrong with the wire between a client's zone and a server's; *out* is towards the server.
IMPAIRMENT_DTYPE = np.dtype(
    [
        ("base", "i4"),  # DISTRIBUTION of the sound wire
        ("latency_out", "i4"),  # DISTRIBUTION that is added, or NO_INDEX
        ("latency_back", "i4"),
        ("loss_out", "f8"),  # share of the packets, 0 to 1
        ("loss_back", "f8"),
    ],
    align=True,
)
