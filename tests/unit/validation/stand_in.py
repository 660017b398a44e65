"""A stand-in for the emulator in tests: another simulation, with costs that the test chooses."""

from dataclasses import dataclass

from meshsim.simulation import simulate
from meshsim.validation.calibration import Calibration, calibrated_topology
from meshsim.validation.emulation import Emulated, Job
from meshsim.validation.prediction import processes


@dataclass
class StandIn:
    """Carries out jobs by simulation; keeps them, so that a test can see their order."""

    truth: Calibration
    steal: float = 0.0
    seed_shift: int = 0

    def __post_init__(self):
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> Emulated:
        self.jobs.append(job)
        result = simulate(
            calibrated_topology(job.topology, self.truth, job.dilation),
            job.duration_s,
            1,
            job.seed + self.seed_shift,
            profile=self.truth.profile(job.dilation),
            processes=processes(job.change, job.duration_s),
            traces=0,
            progress=False,
        )
        return Emulated(result, steal=self.steal, busy=0.3)
