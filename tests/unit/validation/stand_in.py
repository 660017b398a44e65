"""A stand-in for the emulator in tests: another simulation, with costs that the test chooses."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from meshsim.results import Result
from meshsim.simulation import simulate
from meshsim.state.sparse import SparseHistogram
from meshsim.stats.histogram import BIN_COUNT, bin_bounds_ns, bin_index
from meshsim.validation.calibration import Calibration, calibrated_topology
from meshsim.validation.emulation import Emulated, Job
from meshsim.validation.prediction import processes


@dataclass
class StandIn:
    """Carries out jobs by simulation; keeps them, so that a test can see their order."""

    truth: Calibration
    steal: float = 0.0
    #: Once a request, before the mesh sees it; a histogram's bin at least.
    harness_ns: int = 0

    def __post_init__(self):
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> Emulated:
        self.jobs.append(job)
        result = simulate(
            calibrated_topology(job.topology, self.truth, job.dilation),
            job.duration_s,
            1,
            job.seed,
            profile=self.truth.profile(job.dilation),
            processes=processes(job.change, job.duration_s),
            traces=0,
            progress=False,
        )
        if self.harness_ns:
            result = delayed(result, self.harness_ns)
        return Emulated(result, steal=self.steal, busy=0.3)


def delayed(result: Result, delay_ns: int) -> Result:
    """Return `result` with every latency of a request, but of no hop, longer by `delay_ns`."""
    bounds = bin_bounds_ns(BIN_COUNT)
    moved = [bin_index(int(low + high) // 2 + delay_ns) for low, high in pairwise(bounds)]
    records = []
    for record in result.records:
        before = record.window_histogram.dense()
        after = np.zeros_like(before)
        for source, target in enumerate(moved):
            after[:, :, target] += before[:, :, source]
        windows = record.windows.copy()
        windows["latency_sum_ns"] += delay_ns * windows["successes"]
        sparse = SparseHistogram.from_dense(after)
        records.append(replace(record, windows=windows, window_histogram=sparse))
    return replace(result, records=tuple(records))
