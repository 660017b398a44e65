"""The protocol: order of the steps, honest scores, reports; the emulator is a stand-in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from stand_in import StandIn

import meshsim as ms
from meshsim.errors import ConfigError
from meshsim.validation import LENGTHS, Lengths, Scenario, load_scores, suite, validate
from meshsim.validation.calibration import Calibration
from meshsim.validation.lengths import lengths
from meshsim.validation.outcome import Condition
from meshsim.validation.run import dilation_for
from meshsim.validation.scenarios import SEED_SAME, calibration_scenarios
from meshsim.validation.score import INDISTINGUISHABLE, OUTSIDE

TRUTH = Calibration(hop_ns=700e3, request_ns=300e3, pass_ns=20e3, handshake_ns=500e3)
SHORT = Lengths(12.0, 1, 12.0, 2, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    machine = StandIn(TRUTH)
    outcome = validate(emulator=machine, plan=SHORT, folder=folder, progress=False)
    return machine, outcome, folder


def test_the_suite_is_what_was_announced():
    names = [item.name for item in suite()]
    assert len(names) == len(set(names)) >= 10
    assert len([item for item in suite() if item.group == "slow-host"]) == 4
    assert {item.load for item in suite()} >= {0.8, 0.9}
    assert any(item.change for item in suite())


def test_a_perfect_model_is_inside_everywhere(run):
    _, outcome, _ = run
    assert outcome.counts["outside"] == outcome.counts[INDISTINGUISHABLE] == 0
    assert outcome.counts["inside"] > 5 * len(suite())
    scores = outcome.scores()
    judged = scores[(scores.draws == "same") & (scores.metric != "w1_mean")]
    assert judged.error.abs().max() < 0.02
    assert not [text for text in outcome.findings if "outside" in text]


def test_predictions_exist_before_b_is_run(tmp_path):
    seen = []

    class Watching(StandIn):
        def __call__(self, job):
            seen.append((job.topology.name, (tmp_path / "predictions.json").is_file()))
            return super().__call__(job)

    validate(
        [suite()[0]],
        emulator=Watching(TRUTH),
        plan=SHORT,
        folder=tmp_path,
        recalibrate=True,
        progress=False,
    )
    anchors = len(calibration_scenarios())
    assert not any(written for _, written in seen[:anchors])
    assert all(written for _, written in seen[anchors:])


def test_rounds_are_interleaved_and_begin_with_a_null_run(run):
    machine, _, _ = run
    rounds = machine.jobs[len(calibration_scenarios()) :]
    size = 1 + len(suite())
    names = [job.topology.name for job in rounds]
    assert names == ["null", *(item.name for item in suite())] * 3
    seeds = [rounds[start + 1].seed for start in range(0, len(rounds), size)]
    assert [seed == SEED_SAME for seed in seeds] == [True, False, True]


def test_what_is_scored_is_what_was_written(run):
    _, outcome, folder = run
    sealed = json.loads((folder / "predictions.json").read_text())
    assert sealed["digest"] == outcome.digest
    assert set(sealed["content"]["predictions"]) == set(outcome.predictions)
    assert sealed["written"] == outcome.predicted_at


def test_a_cost_that_a_does_not_show_is_found_outside(monkeypatch):
    """A machine whose servers are slower than calibrated: the prediction must miss."""
    slower = replace(TRUTH, request_ns=3e6)

    class Changed(StandIn):
        def __call__(self, job):
            self.truth = slower if job.topology.name == "load-80" else TRUTH
            return super().__call__(job)

    outcome = validate(
        [suite()[0]], emulator=Changed(TRUTH), plan=SHORT, recalibrate=True, progress=False
    )
    verdicts = {s.metric: s for s in outcome.all_scores if s.draws == "same"}
    assert verdicts["p50"].verdict == OUTSIDE
    assert verdicts["p50"].error < -0.1
    assert any("load-80: p50 is" in text for text in outcome.findings)


def test_disturbed_runs_are_told_and_used_only_where_no_others_are():
    outcome = validate(
        [suite()[0]],
        emulator=StandIn(TRUTH, steal=0.1),
        plan=SHORT,
        recalibrate=True,
        progress=False,
    )
    assert outcome.all_scores
    assert any("rest on disturbed runs: A/null, " in text for text in outcome.findings)
    assert any("host took 10 %" in text for text in outcome.findings)


def test_disturbed_runs_are_left_out_where_two_others_remain():
    class Unlucky(StandIn):
        """Slow and disturbed in the second repeat of the scenario."""

        def __call__(self, job):
            of_scenario = [known for known in self.jobs if known.topology.name == "load-80"]
            unlucky = job.topology.name == "load-80" and len(of_scenario) == 1
            self.truth = replace(TRUTH, request_ns=5e6) if unlucky else TRUTH
            return replace(super().__call__(job), lag_ms=9.0 if unlucky else 0.1)

    plan = replace(SHORT, same=3, fresh=0)
    outcome = validate(
        [suite()[0]], emulator=Unlucky(TRUTH), plan=plan, recalibrate=True, progress=False
    )
    assert len(outcome.same["load-80"]) == 2
    assert outcome.counts["outside"] == 0
    assert any("1 of 10 runs were disturbed" in text for text in outcome.findings)


def test_a_round_that_would_not_end_in_time_is_not_begun():
    plan = replace(SHORT, wall_max_s=0.0)
    outcome = validate(
        [suite()[0]], emulator=StandIn(TRUTH), plan=plan, recalibrate=True, progress=False
    )
    assert outcome.same == {}
    assert any("rounds were not begun" in text for text in outcome.findings)


def test_predictions_are_kept_where_the_report_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    outcome = validate([suite()[0]], emulator=StandIn(TRUTH), plan=SHORT, progress=False)
    assert tmp_path in Path(outcome.predictions_path).parents
    assert json.loads(Path(outcome.predictions_path).read_text())["digest"] == outcome.digest
    assert outcome.predictions_path in str(outcome.report(tmp_path / "report").read_text())


class Interrupted(StandIn):
    """Ctrl-C in the n-th run of B."""

    def __init__(self, nth):
        super().__init__(TRUTH)
        self.left = nth

    def __call__(self, job):
        if job.topology.name in {item.topology.name for item in suite()}:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return super().__call__(job)


def test_an_interrupted_suite_is_scored_by_what_was_measured(tmp_path):
    chosen = suite()[:2]
    plan = Lengths(12.0, 1, 12.0, 3, 0)
    machine = Interrupted(6)
    outcome = validate(chosen, emulator=machine, plan=plan, folder=tmp_path, progress=False)
    assert [len(outcome.same[item.name]) for item in chosen] == [3, 2]
    assert "interrupted in round 3 of 3" in outcome.notes
    assert outcome.counts["inside"] > 0
    with pytest.raises(KeyboardInterrupt):  # nothing is known of the second scenario
        validate(chosen, emulator=Interrupted(2), plan=plan, folder=tmp_path, progress=False)


def test_the_report_has_every_scenario(run, tmp_path):
    _, outcome, _ = run
    page = outcome.report(tmp_path / "report")
    written = {path.name for path in page.parent.iterdir()}
    assert written == {"report.html", "report.md", "validation.json", "errors.png", "latencies.png"}
    markdown = (page.parent / "report.md").read_text()
    for text in (page.read_text(), markdown, str(outcome), outcome._repr_html_()):
        assert all(item.name in text for item in suite())
    plain = json.loads((page.parent / "validation.json").read_text())
    assert plain["predictions_digest"] == outcome.digest
    assert len(plain["scores"]) == len(outcome.all_scores)
    stored = load_scores(page.parent / "validation.json")
    assert [str(item) for item in stored] == [str(item) for item in outcome.all_scores]
    with pytest.raises(ConfigError, match="no scores"):
        load_scores(page)
    assert "NaN" not in (page.parent / "validation.json").read_text()


def test_a_busy_machine_is_a_finding(run):
    _, outcome, _ = run
    loaded = replace(outcome, conditions=(Condition("x", 0, 0.0, 0.9, 0.1, ""),))
    assert any("busy" in text for text in loaded.findings)


def test_a_machine_that_changed_after_the_calibration_is_told():
    class Tired(StandIn):
        """Hops take longer once A is done."""

        def __call__(self, job):
            done = len(self.jobs) >= len(calibration_scenarios())
            self.truth = replace(TRUTH, hop_ns=3 * TRUTH.hop_ns) if done else TRUTH
            return super().__call__(job)

    outcome = validate(
        [suite()[0]], emulator=Tired(TRUTH), plan=SHORT, recalibrate=True, progress=False
    )
    assert outcome.drift == pytest.approx(0.0, abs=1e-9)
    assert outcome.calibration_drift > 1.0
    assert any("not the one that was calibrated" in text for text in outcome.findings)


def test_a_topology_of_ones_own_is_dilated_as_its_service_times_need():
    fast = ms.with_values(
        suite()[0].topology,
        {"services.server.workloads.v1.steps": [{"compute": "1ms"}], "traffic.load.rate": 10},
    )
    assert dilation_for(fast) == 5.0
    busy = ms.with_values(suite()[0].topology, {"traffic.load.rate": 500})
    assert dilation_for(busy) == 2.0
    assert all(dilation_for(item.topology) == 1.0 for item in suite())


def test_wrong_arguments_are_told():
    with pytest.raises(ConfigError, match="unknown suite"):
        lengths("fulll")
    with pytest.raises(ConfigError, match="dilation"):
        validate(suite()[0].topology, dilation=0.5, emulator=StandIn(TRUTH), progress=False)
    nothing = suite()[0].topology.model_copy(update={"traffic": {}})
    with pytest.raises(ConfigError, match="no traffic"):
        validate(nothing, emulator=StandIn(TRUTH), progress=False)
    bare = suite()[0].topology.model_copy(update={"mesh": "none"})
    with pytest.raises(ConfigError, match="without proxies"):
        validate(bare, emulator=StandIn(TRUTH), progress=False)


def test_lengths_are_those_of_the_protocol():
    full = LENGTHS["full"]
    assert full.same >= 5
    assert full.duration_s * 5 / 6 >= 60
    assert full.duration_s / 6 >= 10
    quick = LENGTHS["quick"]
    runs = quick.calibration_repeats * len(calibration_scenarios())
    rounds = (quick.same + quick.fresh) * (len(suite()) + 1)
    starts_s = 8.0 * (runs + rounds)  # of a mesh, on two cores
    load_s = runs * quick.calibration_s + rounds * quick.duration_s
    assert load_s + starts_s < quick.wall_max_s
    assert quick.wall_max_s <= 45 * 60


def test_a_scenario_names_what_it_asks():
    assert all(isinstance(item, Scenario) and item.question for item in suite())
