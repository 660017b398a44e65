"""The command line: exit statuses, what goes to which stream, what is written.

Scenarios are one service at low load for a few seconds: milliseconds of work once compiled.
"""

import json
import resource
import subprocess
import sys
from collections import namedtuple

import pytest

import meshsim
from meshsim import benchmark
from meshsim.cli import main

Outcome = namedtuple("Outcome", "status stdout stderr")

SCENARIO = """\
name: one
mesh: none
services:
  server:
    workloads:
      v1:
        replicas: 2
        concurrency: 1
        steps:
          - compute: {exponential: 10ms}
traffic:
  visit:
    to: server
    arrivals: {poisson: 50}
"""
SHORT = ("--duration", "4s", "--replications", "3")


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(SCENARIO)
    return str(path)


@pytest.fixture
def call(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        streams = capsys.readouterr()
        return Outcome(exit_.value.code or 0, streams.out, streams.err)

    return call


# --- Start-up -------------------------------------------------------------------------------


def test_help_loads_nothing_heavy():
    script = (
        "import sys, meshsim.cli\n"
        "heavy = ('numba', 'numpy', 'pandas', 'pydantic', 'scipy', 'matplotlib', 'simpy', 'tqdm')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_help_is_quick():
    def cpu_s():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "meshsim", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # CPU time, because the machine may be busy; the least of three, because it may be cold.
    assert min(cpu_s() for _ in range(3)) < 0.3


def test_help_lists_the_commands(call):
    outcome = call("--help")
    assert outcome.status == 0
    assert all(name in outcome.stdout for name in ("run", "explain", "schema", "bench"))


# --- Usage: exit status 2 -------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "a.yaml", "--manifests", "b"),
        ("run", "a.yaml", "--rate", "visit"),
        ("run", "a.yaml", "--rate", "visit=many"),
        ("run", "a.yaml", "--set", "=3"),
        ("run", "a.yaml", "--precision", "p99"),
        ("run", "a.yaml", "--precision", "p42:5%"),
        ("run", "a.yaml", "--duration", "soon"),
        ("run", "a.yaml", "--png", "-"),
        ("emulate", "a.yaml", "--png", "-"),
        ("run", "a.yaml", "--replications", "0"),
        ("run", "a.yaml", "--seed", "-1"),
        ("run", "a.yaml", "--unknown"),
        ("explain", "a.yaml"),
        ("explain",),
        ("fly",),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(call, arguments):
    outcome = call(*arguments)
    assert outcome.status == 2
    assert outcome.stdout == ""
    assert "Usage: meshsim" in outcome.stderr


# --- Bad input: exit status 1 ---------------------------------------------------------------


def test_every_problem_of_a_file_is_reported(call, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        SCENARIO.replace("replicas: 2", "replicas: -2").replace("to: server", "to: sever")
    )
    output = tmp_path / "out.json"
    outcome = call("run", str(path), "--json", str(output))
    assert outcome.status == 1
    assert outcome.stdout == ""
    assert "bad.yaml:7:" in outcome.stderr
    assert "bad.yaml:13:" in outcome.stderr
    assert "did you mean server?" in outcome.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.yaml"]


@pytest.mark.parametrize(
    "options",
    [
        ("--rate", "absent=5"),
        ("--set", "services.absent.port=5"),
        ("--set", "services.server.workloads.v1.replicas=-1"),
        ("--mesh", "absent"),
        ("--json", "absent/out.json"),
        ("--png", "absent/out.png"),
    ],
    ids=" ".join,
)
def test_a_value_that_is_not_allowed_exits_with_1(call, scenario, options):
    outcome = call("run", scenario, *options)
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("error: ")
    assert "Traceback" not in outcome.stderr


def test_a_missing_file_exits_with_1(call, tmp_path):
    outcome = call("run", str(tmp_path / "absent.yaml"))
    assert outcome.status == 1
    assert "absent.yaml" in outcome.stderr


# --- Runs -----------------------------------------------------------------------------------


def test_run_prints_a_report(call, scenario):
    outcome = call("run", scenario, *SHORT)
    assert outcome.status == 0
    assert "visit" in outcome.stdout
    assert "p99" in outcome.stdout
    assert "verdict: STABLE" in outcome.stdout


def test_json_on_stdout_is_nothing_but_json(call, scenario):
    outcome = call("run", scenario, *SHORT, "--seed", "7", "--json", "-")
    document = json.loads(outcome.stdout)
    assert outcome.status == 0
    assert (document["mesh"], document["seed"], document["replications"]) == ("none", 7, 3)
    assert document["verdict"] in {"stable", "unstable"}
    assert document["engine"].keys() >= {"requests", "events", "wall_s"}
    [visit] = document["traffic"]
    assert visit["name"] == "visit"
    assert visit["latency_ms"].keys() >= {"mean", "p50", "p90", "p99"}
    assert {endpoint["service"] for endpoint in document["endpoints"]} == {"server"}


def test_seed_decides_the_numbers(call, scenario):
    def latency(seed):
        outcome = call("run", scenario, *SHORT, "--seed", seed, "--json", "-")
        return json.loads(outcome.stdout)["traffic"][0]["latency_ms"]["mean"]["value"]

    assert latency("1") == latency("1")
    assert latency("1") != latency("2")


def test_rate_and_set_change_the_scenario(call, scenario):
    changes = ("--rate", "visit=20", "--set", "services.server.workloads.v1.replicas=3")
    outcome = call("run", scenario, *SHORT, *changes, "--json", "-")
    document = json.loads(outcome.stdout)
    assert document["traffic"][0]["offered_rps"] == pytest.approx(20, rel=0.5)
    assert len(document["endpoints"]) == 3


def test_files_are_written_whole(call, scenario, tmp_path):
    outcome = call(
        "run",
        scenario,
        *SHORT,
        "--json",
        str(tmp_path / "r.json"),
        "--png",
        str(tmp_path / "r.png"),
    )
    assert outcome.status == 0
    assert json.loads((tmp_path / "r.json").read_text())["scenario"] == "one"
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert {entry.name for entry in tmp_path.iterdir()} == {"one.yaml", "r.json", "r.png"}


def test_an_interrupted_run_says_how_far_it_came(call, scenario, tmp_path, monkeypatch):
    def interrupted(topology, *, progress, **_):
        progress(2, 10, "replications")
        raise KeyboardInterrupt

    monkeypatch.setattr(meshsim, "simulate", interrupted)
    outcome = call("run", scenario, "--json", str(tmp_path / "r.json"))
    assert outcome.status == 1
    assert "2 of 10" in outcome.stderr
    assert not (tmp_path / "r.json").exists()


# --- The other commands ---------------------------------------------------------------------


def test_explain_names_value_and_place(call, scenario):
    outcome = call("explain", scenario, "services.server.workloads.v1.replicas")
    assert outcome.status == 0
    assert "2" in outcome.stdout
    assert "one.yaml:7:" in outcome.stdout


def test_explain_takes_the_changes_that_run_takes(call, scenario):
    def told(path, *changes):
        outcome = call("explain", scenario, path, *changes)
        assert outcome.status == 0, outcome.stderr
        return outcome.stdout.rstrip("\n")

    assert told("services.server.replicas", "--set", "services.server.replicas=7") == (
        "services.server.workloads.v1.replicas = 7: set to 7 by the caller"
    )
    rate = told("traffic.visit.rate", "--rate", "visit=70")
    assert rate.startswith("traffic.visit.arrivals.poisson.rate = 70.0: set to {poisson")
    assert told("server.retries.num_retries").split(": ")[0].endswith("= 0")
    assert "= 2: Istio" in told("server.retries.num_retries", "--mesh", "istio-sidecar")
    assert told("mesh", "--mesh", "istio-sidecar").endswith("by the caller")


def test_explain_refuses_the_changes_that_run_refuses(call, scenario):
    for changes in (("--mesh", "absent"), ("--set", "services.server.replicas=-1")):
        assert call("explain", scenario, "mesh", *changes).status == 1


def test_schema_is_a_json_schema(call):
    document = json.loads(call("schema").stdout)
    assert "services" in document["$defs"]["Topology"]["properties"]


def test_bench_prints_rates(call, monkeypatch):
    monkeypatch.setattr(benchmark, "REQUESTS", 2_000)
    outcome = call("bench")
    assert outcome.status == 0
    assert all(case in outcome.stdout for case in benchmark.CASES)


def test_bench_computes_what_theory_says():
    # Half a million requests at load 0.8: the interval of the mean is about 1 % wide; 5 % is
    # five of them, and far from any other discipline or load.
    by_case = {m.case: m.latency_mean_ms for m in benchmark.measure()}
    assert by_case["mm1"] == pytest.approx(5.0, rel=0.05)
    assert by_case["chain_rand"] == pytest.approx(80.0, rel=0.05)
