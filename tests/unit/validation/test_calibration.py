"""The fit recovers costs that are known, and says where it cannot."""

from dataclasses import replace

import numpy as np
import pytest
from stand_in import StandIn

from meshsim.errors import ConfigError
from meshsim.meshes import resolve
from meshsim.topology import with_values
from meshsim.topology.compiled import compile_topology
from meshsim.validation.calibration import (
    PROFILE_NAME,
    Calibration,
    calibrate,
    calibrated_topology,
)
from meshsim.validation.emulation import Job
from meshsim.validation.scenarios import SEED_SAME, TRAFFIC, calibration_scenarios

TRUTH = Calibration(hop_ns=800e3, request_ns=400e3, pass_ns=30e3)


def emulated(truth, repeats=1, **options):
    machine = StandIn(truth, **options)
    return {
        name: [machine(Job(topology, 12.0, SEED_SAME)).result for _ in range(repeats)]
        for name, topology in calibration_scenarios().items()
    }


@pytest.fixture(scope="module")
def fitted():
    return calibrate(emulated(TRUTH))


def test_the_costs_come_back(fitted):
    # Same draws on both sides and exact means: what is left is the rounding of costs to 1 ns,
    # and of the cost of a pass, in which the proxies count what they read besides.
    assert fitted.request_ns == pytest.approx(TRUTH.request_ns, abs=2e3)
    assert fitted.hop_ns == pytest.approx(TRUTH.hop_ns, abs=5e3)
    assert fitted.pass_ns == pytest.approx(TRUTH.pass_ns, rel=0.02)
    # A stand-in without a harness has a stage whose mean is nothing.
    assert sum(fitted.harness_ns) / len(fitted.harness_ns) == pytest.approx(0.0, abs=10e3)


def test_the_anchors_say_how_well_it_fits(fitted):
    assert set(fitted.anchors) == set(calibration_scenarios())
    for name in ("light", "busy"):
        anchor = fitted.anchors[name]
        assert anchor.simulated_ms == pytest.approx(anchor.emulated_ms, rel=1e-3)
        assert anchor.spread_ms == 0.0
        assert anchor.requests > 50


def test_the_harness_is_told_from_the_hop():
    truth = replace(TRUTH, handshake_ns=600e3)
    found = calibrate(emulated(truth, harness_ns=900_000))
    assert np.mean(found.harness_ns) == pytest.approx(900e3, abs=1e3)
    # A handshake after the warm-up is counted among the passes, at most 3 in 250 requests of 8
    # passes' CPU each: the hop is smaller by what the passes are larger.
    assert found.hop_ns == pytest.approx(TRUTH.hop_ns, abs=20e3)
    both = found.hop_ns + 4 * found.pass_ns
    assert both == pytest.approx(TRUTH.hop_ns + 4 * TRUTH.pass_ns, abs=5e3)
    assert found.request_ns == pytest.approx(TRUTH.request_ns, abs=2e3)
    # Half of the round trip of TLS, which is shorter by as much.
    assert found.handshake_ns == pytest.approx(600e3, abs=15e3)
    for anchor in found.anchors.values():
        assert anchor.simulated_ms == pytest.approx(anchor.emulated_ms, rel=2e-3, abs=0.02)


def test_a_machine_without_costs_is_told_as_such():
    found = calibrate(emulated(Calibration()))
    assert found.request_ns == pytest.approx(0.0, abs=5e3)
    assert found.hop_ns == pytest.approx(0.0, abs=20e3)
    assert any("CPU of their own" in note for note in found.notes)


def test_a_calibration_survives_its_file(fitted):
    assert Calibration.from_dict(fitted.to_dict()) == fitted


def test_costs_are_shorter_in_dilated_time():
    profile = TRUTH.profile(dilation=4.0)
    assert (profile.name, profile.request_ns, profile.cost.pass_ns) == (PROFILE_NAME, 100_000, 7500)
    assert Calibration(harness_ns=(8.0,)).stage_ns(4.0) == [2.0]
    topology = calibrated_topology(calibration_scenarios()["busy"], TRUTH, 4.0)
    leg = topology.network.latency.same_zone.constant
    assert leg is not None
    assert leg.value == 100_000  # half of 800 us over 4


def test_the_servers_own_work_shifts_no_draw():
    topology = resolve(calibration_scenarios()["busy"])
    plain = compile_topology(topology, Calibration().profile())
    costly = compile_topology(topology, TRUTH.profile())

    def ordinals(compiled):
        return [int(value) for value in compiled.arrays["steps"]["ordinal"] if value]

    assert set(ordinals(costly)) == set(ordinals(plain))
    assert len(costly.arrays["steps"]) == len(plain.arrays["steps"]) + 1


def test_the_one_class_of_the_suite_is_named():
    assert all(list(t.traffic) == [TRAFFIC] for t in calibration_scenarios().values())


def test_a_machine_that_answers_nothing_is_told():
    runs = emulated(TRUTH)
    dead = with_values(
        calibration_scenarios()["light"], {"services.server.workloads.v1.error_rate": 1.0}
    )
    runs["light"] = [StandIn(TRUTH)(Job(dead, 12.0, SEED_SAME)).result]
    with pytest.raises(ConfigError, match="no request of light succeeded"):
        calibrate(runs)
