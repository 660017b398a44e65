"""Compiled code and plain Python give the same bits; so do the same seed and replication."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from parity_scenarios import digest, run

SCENARIOS = ("everything", "everything-none", "guarded", "cached", "probed", "bookinfo")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, list[str]]:
    """Digests by scenario, of another process that runs without JIT."""
    script = Path(__file__).with_name("parity_scenarios.py")
    done = subprocess.run(
        # Warnings are errors there as well: the one about modular arithmetic is silenced.
        [sys.executable, "-W", "error", str(script), *SCENARIOS],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: digests for name, *digests in lines}


@pytest.mark.parametrize("name", SCENARIOS)
def test_jit_on_and_off_give_the_same_bits(name, interpreted):
    records = run(name)
    assert records[0].counters["requests"] > 20
    assert [digest(record) for record in records] == interpreted[name]


def test_the_same_run_twice_gives_the_same_bits():
    assert digest(run("everything")[0]) == digest(run("everything")[0])


def test_seeds_and_replications_differ():
    first, second = run("everything", replications=2)
    (other,) = run("everything", seed=2)
    assert len({digest(record) for record in (first, second, other)}) == 3


def test_a_replication_does_not_depend_on_how_many_run():
    few, many = run("everything", replications=2), run("everything", replications=5)
    # The replications are told apart by their numbers; the first keeps traces.
    assert [digest(record) for record in few] == [digest(record) for record in many[:2]]


def test_the_scenario_meets_what_it_is_for():
    """A digest proves little if nothing happened."""
    record = run("everything")[0]
    flags = record.traffic_flags.sum(axis=(0, 1))
    edges = record.edge_flags.sum(axis=(0, 1))
    assert flags[0] > 0
    assert (edges > 0).sum() >= 4  # several response flags occurred
    assert record.series["retries"].sum() > 0
    assert record.endpoints["rejected"][-1].sum() > 0
    assert record.endpoints["reneged"][-1].sum() > 0
    assert len(record.spans) > 0
    assert record.counters["invalid"] == 0
