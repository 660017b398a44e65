"""A whole mesh on real sockets: results, accounting, and nothing left behind."""

import asyncio
import multiprocessing
import os
import threading

import pytest
from mesh_scenarios import assert_accounted, pair
from run_leftovers import leftovers

from emulator.running.harness import Emulation, emulate, progress_line
from emulator.running.plan import plan_run
from meshsim.errors import ConfigError
from meshsim.results import Result


def test_a_run_gives_a_result_and_leaves_nothing(tmp_path):
    before = leftovers()
    result = emulate(pair(), "2s", 3, dilation=1.0, progress=False, record=tmp_path / "log")
    assert leftovers() == before
    assert not multiprocessing.active_children()
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    assert result.emulation["mtls"] == "STRICT"
    # The requests are the simulator's: 60/s for 2 s, here the very 110 of this seed.
    arrivals = result.records[0].windows["arrivals"].sum()
    assert arrivals == result.records[0].windows["successes"].sum()
    edges = result.edges()
    assert set(edges["success"]) == {1.0}
    # 2 ms and 3 ms of service, and never less.
    assert edges["mean_ms"].min() >= 3.0
    assert "emulated in" in result.report()
    assert result.emulation["propagation"] == []
    assert "was effective at" not in result.report()
    assert '"accounting"' in result.to_json()
    assert "CPU cores" not in result.report()
    cpu_s = result.emulation["cpu_s"]
    assert cpu_s.keys() == {"edge", "node one", "node two"}
    cpu_share = sum(cpu_s.values()) / (2.0 * os.cpu_count())
    assert 0 < result.emulation["cpu_share"] == pytest.approx(cpu_share)
    assert (tmp_path / "log").stat().st_size > 10_000
    result.save(tmp_path / "saved")
    assert Result.load(tmp_path / "saved").emulation == result.emulation


def test_the_same_seed_offers_what_the_simulator_offers():
    import meshsim as ms

    simulated = ms.simulate(pair(), "1s", replications=1, seed=5).records[0]
    emulated = emulate(pair(), "1s", 5, dilation=1.0, mtls="DISABLE", progress=False).records[0]
    assert (emulated.windows["arrivals"] == simulated.windows["arrivals"]).all()


def test_fresh_draws_are_others():
    plans = [plan_run(pair(), "1s", 5, draws=draws) for draws in ("same", "fresh")]
    assert [plan.draws for plan in plans] == ["same", "fresh"]


def test_a_run_in_the_background_can_be_stopped():
    emulation = Emulation(pair(), "600s", 1, dilation=1.0, progress=False)
    try:
        while not emulation.now:
            assert not emulation.done, emulation.result()
            threading.Event().wait(0.01)
        assert "/s p50" in repr(emulation)
        emulation.stop()
        result = emulation.result(60)
    finally:
        emulation.abort()
    assert "stopped by hand" in result.records[0].limit
    assert result.records[0].ended_ns < 60 * 10**9
    assert result.verdict.name == "stable"
    assert result.report()
    assert_accounted(result)


def test_a_run_works_under_a_running_loop():
    async def cell():
        return emulate(pair(), "1s", 1, dilation=1.0, mtls="PERMISSIVE", progress=False)

    assert_accounted(asyncio.run(cell()))


def test_a_run_that_is_aborted_leaves_nothing():
    before = leftovers()
    emulation = Emulation(pair(), "600s", 1, dilation=1.0, progress=False)
    while not emulation.now:
        assert not emulation.done
        threading.Event().wait(0.01)
    emulation.abort()
    assert emulation.done
    assert leftovers() == before


def test_configuration_changes_reach_proxies():
    changes = [("500ms", "policies.back.load_balancing.policy", "ROUND_ROBIN")]
    result = emulate(pair(), "1500ms", 1, dilation=1.0, changes=changes, progress=False)
    assert result.emulation["configuration_version"] == 2
    effective = [row for row in result.emulation["propagation"] if row["version"] == 2]
    assert {row["proxy"] for row in effective} == {"front-v1-0"}
    assert effective == result.emulation["propagation"]  # the start is no change
    assert all(500_000_000 <= row["changed_ns"] <= row["effective_ns"] for row in effective)
    assert "configuration 2 was effective at 1 of 1 proxies" in result.report()
    assert_accounted(result)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"seed": -1}, "seed"),
        ({"duration": "0s"}, "duration"),
        ({"duration": "soon"}, "duration"),
        ({"dilation": 0.0}, "dilation"),
        ({"processes": 0}, "processes"),
        ({"processes": "many"}, "processes"),
        ({"plane": "quic"}, "plane"),
        ({"draws": "none"}, "draws"),
        ({"mtls": "MAYBE"}, "mtls"),
        ({"mesh": "none", "mtls": "STRICT"}, "mtls"),
        ({"key_type": "dsa"}, "key_type"),
    ],
)
def test_wrong_arguments_start_nothing(options, found):
    before = leftovers()
    with pytest.raises(ConfigError, match=found):
        emulate(pair(), **options)
    assert leftovers() == before


def test_progress_says_rate_latency_errors_and_version():
    now = {"rate": 12.3, "p50_ms": 1.234, "p99_ms": 20.0, "failed": 3, "version": 7}
    assert progress_line(now) == "12/s p50 1.23 ms p99 20 ms, 3 failed, configuration 7"
