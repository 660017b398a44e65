"""The judge is judged: each rule accepts what agrees, refuses what does not, and says which."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import verdict
from scipy import stats
from truth_cases import SCHEMA, Case, read_cases
from truth_metrics import quantile, quantile_of, ratio, reader_of, standard_deviation
from truth_report import Entry, Report
from truth_runs import Values
from truth_study import Exact, Examiner, NotYet, Replicated, study_of
from verdict import DISPUTED, FAIL, INCONCLUSIVE, NOT_YET, PASS

from meshsim.stats.histogram import BIN_COUNT, bin_bounds_ns

#: Kinds whose answers need more of a mesh than there is.
WITHOUT_MESHES = ("gossip", "control_plane", "mtls", "p_mesh")
ADAPTERS = sorted((Path(__file__).resolve().parent / "adapters").glob("*.py"))


def make_case(rule, expected, kind="made-up", metric="mean", **tolerance):
    return Case("x", kind, metric, expected, {"rule": rule, **tolerance})


def sample(mean, spread=1.0, count=10):
    """Return `count` values with exactly this mean and standard deviation."""
    values = np.linspace(-1, 1, count)
    return (mean + spread * values / values.std(ddof=1))[:, None]


def test_ci_follows_the_t_interval():
    case = make_case("ci", 10.0, max_halfwidth_rel=0.1)
    limit = stats.t.ppf(0.9995, 9) / 10**0.5
    assert verdict.judge_sample(case, sample(10 + 0.99 * limit)).status == PASS
    assert verdict.judge_sample(case, sample(10 + 1.01 * limit)).status == FAIL
    assert verdict.judge_sample(case, sample(10 - 1.01 * limit)).status == FAIL


def test_ci_that_is_too_wide_says_nothing():
    case = make_case("ci", 10.0, max_halfwidth_rel=0.05)
    found = verdict.judge_sample(case, sample(10))
    assert found.status == INCONCLUSIVE
    assert "outside" not in found.note
    assert "outside" in verdict.judge_sample(case, sample(20)).note
    assert verdict.judge_sample(case, sample(10), widen=3).status == PASS


def test_ci_of_several_elements_is_corrected_for_their_number():
    case = make_case("ci", [10.0, 10.0], max_halfwidth_rel=0.1)
    off = 10 + stats.t.ppf(0.9995, 9) / 10**0.5 * 1.01
    both = np.hstack([sample(off), sample(10)])
    assert verdict.judge_sample(case, both).status == PASS  # t(.99975) is wider
    wrong = np.hstack([sample(off + 0.3), sample(10)])
    assert verdict.judge_sample(case, wrong).status == FAIL


def test_ci_of_one_value_holds_for_each_variant():
    case = make_case("ci", 10.0, max_halfwidth_rel=0.1)
    assert verdict.judge_sample(case, np.hstack([sample(10)] * 3)).status == PASS
    assert verdict.judge_sample(case, np.hstack([sample(10), sample(13)])).status == FAIL


def test_ci_wants_ten_replications():
    with pytest.raises(ValueError, match="wants 10"):
        verdict.judge_sample(make_case("ci", 1.0, max_halfwidth_rel=1), sample(1, count=9))


def test_false_alarms_are_one_in_a_thousand_and_scores_normal():
    rng = np.random.default_rng(1)
    case = make_case("ci", 5.0, max_halfwidth_rel=1.0)
    found = [verdict.judge_sample(case, rng.normal(5, 2, (10, 1))) for _ in range(1500)]
    failed = sum(item.status == FAIL for item in found)
    assert failed <= 8  # P(Poisson(1.5) > 8) = 2e-5
    scores = np.array([item.scores[0] for item in found])
    assert stats.kstest(scores, "norm").pvalue > 0.001


def test_asym_allows_for_a_finite_system():
    case = make_case("asym", 10.0, rel=0.05)
    limit = 0.5 + stats.t.ppf(0.9995, 9) * 0.1 / 10**0.5
    assert verdict.judge_sample(case, sample(10 + 0.99 * limit, 0.1)).status == PASS
    assert verdict.judge_sample(case, sample(10 + 1.01 * limit, 0.1)).status == FAIL


def test_simref_adds_both_errors():
    case = make_case("simref", 10.0, ref_se=0.04, rel=0.01)
    limit = 0.1 + 3.3 * (0.04**2 + 0.03**2) ** 0.5
    spread = 0.03 * 10**0.5
    assert verdict.judge_sample(case, sample(10 + 0.99 * limit, spread)).status == PASS
    assert verdict.judge_sample(case, sample(10 + 1.01 * limit, spread)).status == FAIL


def test_band_and_bound():
    band = make_case("band", 5, lo=4, hi=6)
    assert verdict.judge_sample(band, sample(6, 0, 5)).status == PASS
    assert verdict.judge_sample(band, sample(6.1, 0, 5)).status == FAIL
    assert verdict.judge_exact(band, np.array([3.9])).status == FAIL
    bound = make_case("bound", [3.0, 18.5])
    half = stats.t.ppf(0.995, 9) / 10**0.5
    assert verdict.judge_sample(bound, sample(3 - 0.99 * half)).status == PASS
    assert verdict.judge_sample(bound, sample(3 - 1.01 * half)).status == FAIL
    assert verdict.judge_sample(bound, np.hstack([sample(5), sample(30)])).status == FAIL


def test_exact_whole_numbers_are_equal():
    assert verdict.judge_exact(make_case("exact", 299), np.array([299.0])).status == PASS
    assert verdict.judge_exact(make_case("exact", 299), np.array([299.0000001])).status == FAIL
    assert verdict.judge_exact(make_case("exact", 0.5), np.array([0.5 + 4e-10])).status == PASS
    assert verdict.judge_exact(make_case("exact", 0.5), np.array([0.5 + 6e-10])).status == FAIL
    assert verdict.judge_exact(make_case("exact", 0.5), np.array([np.nan])).status == FAIL
    wide = make_case("exact", [10.0, 1.0], rel=1e-3)
    assert verdict.judge_exact(wide, np.array([10.009, 1.0])).status == PASS


def test_one_broken_claim_is_named():
    found = verdict.judge_claims({"a holds": True, "b holds": False})
    assert (found.status, found.note) == (FAIL, "does not hold: b holds")
    assert verdict.judge_claims({}).status == FAIL


def test_a_dispute_needs_a_second_computation_that_agrees_with_the_first():
    case = make_case("ci", 12.0, max_halfwidth_rel=0.1)
    disputed = verdict.dispute(case, sample(10), 10.0, "another way")
    assert disputed.status == DISPUTED
    assert "another way" in disputed.note
    assert verdict.dispute(case, sample(10), 12.0, "another way").status == FAIL
    assert verdict.dispute(case, sample(12), 10.0, "another way").status == PASS


def test_a_band_is_disputed_around_the_second_computation():
    case = make_case("band", 12.0, lo=11.5, hi=12.5)
    assert verdict.dispute(case, sample(10), 10.3, "another way").status == DISPUTED
    assert verdict.dispute(case, sample(10), 10.6, "another way").status == FAIL
    assert verdict.dispute(case, sample(12.4), 10.3, "another way").status == PASS


#: What an adapter that is off by so much (a share of its answer) must not pass with.  A ci case
#: sees what is beyond its half-width: t(.9995, 9) / t(.975, 9) = 2.1 of them, and its noise.
MUTANTS = {
    "retry.layers.2.3": 0.01,
    "outlier.eject.5": 0.01,
    "stat.nmin.0.99.0.95": 0.01,
    "envoy.prio.71_71": 0.01,
    "slowstart.15.60.2.0": 0.01,
    "maglev.w12": 0.01,
    "retry.grpc.0.08": 0.01,
    "closed.1.0.0.1.20.X": 0.04,
}


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.parametrize("way", [-1, 0, 1])
def test_an_adapter_that_is_a_little_wrong_fails(monkeypatch, name, way):
    (case,) = (case for case in read_cases() if case.id == name)
    study, factor = study_of(case), 1 + way * MUTANTS[name]
    if isinstance(study, Exact):
        wrong = replace(study, compute=lambda: np.multiply(study.compute(), factor))
    else:
        wrong = replace(study, read=lambda runs: factor * study.read(runs))
    monkeypatch.setattr("truth_study.study_of", lambda _: wrong)
    assert Examiner().examine(case)[0].status == (FAIL if way else PASS)


def replicated(spread, rng):
    def run(seed, replications):
        return Values(10 + spread * rng.standard_normal(replications))

    return Replicated("k", run, lambda runs: runs.values, 0.0, replications_max=80)


@pytest.mark.parametrize(
    ("spread", "least", "most", "status"),
    [(0.01, 10, 10, PASS), (1.2, 20, 79, PASS), (50, 80, 80, INCONCLUSIVE)],
)
def test_runs_go_on_until_precise_or_at_the_limit(monkeypatch, spread, least, most, status):
    rng = np.random.default_rng(2)
    case = make_case("ci", 10.0, max_halfwidth_rel=0.05)
    monkeypatch.setattr("truth_study.study_of", lambda _: replicated(spread, rng))
    found, _ = Examiner().examine(case)
    assert found.status == status
    assert least <= found.replications <= most


def test_the_number_of_replications_does_not_bias_the_mean(monkeypatch):
    # Skewed values, whose mean and spread go together, as those of a queue.
    rng = np.random.default_rng(4)
    case = make_case("ci", 1.0, max_halfwidth_rel=0.2)

    def run(seed, replications):
        return Values(rng.exponential(1, replications))

    study = Replicated("k", run, lambda runs: runs.values, 0.0, replications_max=10_000)
    monkeypatch.setattr("truth_study.study_of", lambda _: study)
    means = [Examiner().examine(case)[0].mean[0] for _ in range(400)]
    # Doubling from ten until it looks precise gives 0.976 here.
    assert np.mean(means) == pytest.approx(1, abs=3.3 * np.std(means) / 20)


def test_a_kind_without_adapter_is_not_yet():
    found, _ = Examiner().examine(make_case("ci", 1.0, kind="no_such_kind"))
    assert (found.status, found.note) == (NOT_YET, "no adapter for no_such_kind")


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_adapters_never_read_the_name_of_a_case(path):
    tree = ast.parse(path.read_text())
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "id" not in read


def test_open_cases_are_complete_and_readable():
    cases = read_cases()
    assert len(cases) == len({case.id for case in cases}) == 286
    for case in cases:
        try:
            study_of(case)
        except NotYet:
            assert case.kind in WITHOUT_MESHES


def test_what_cannot_be_said_is_not_yet_and_says_why():
    def reason(case):
        found, _ = Examiner().examine(case)
        assert found.status == NOT_YET
        return found.note

    by_id = {case.id: case for case in read_cases()}
    mmc, mg1 = by_id["mmc.c10.r0.9.T"], by_id["md1.0.5.Wq"]
    assert reason(replace(mmc, params={**mmc.params, "c": 9})).endswith("1 is not below 1")
    assert reason(replace(mmc, params={"mu": 1.0})) == "the case states no parameter 'lam'"
    assert "utilisation of 1.5" in reason(replace(mg1, params={**mg1.params, "lam": 1.5}))
    assert reason(replace(mg1, params={**mg1.params, "c": -1})).startswith("no such scenario")


def test_a_file_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"schema": "other/9", "cases": []}))
    with pytest.raises(ValueError, match="no file of schema 'meshsim-truth/1'"):
        read_cases(path)
    incomplete = {"id": "a", "kind": "mm1", "metric": "mean wait", "tolerance": {"rule": "ci"}}
    path.write_text(json.dumps({"schema": SCHEMA, "cases": [incomplete]}))
    with pytest.raises(ValueError, match="case 0 states no expected"):
        read_cases(path)


def test_metrics_are_read_from_their_words():
    assert quantile_of("p99.9 sojourn") == pytest.approx(0.999)
    assert quantile_of("median") == 0.5
    assert quantile_of("mean sojourn") is None
    with pytest.raises(NotYet, match="phase of the moon"):
        reader_of("phase of the moon")


def test_values_by_replication_average_to_the_pooled_estimate():
    rng = np.random.default_rng(3)
    times = rng.exponential(1e6, (20, 5000))
    counts, sums = np.full(20, 5000), times.sum(axis=1)
    assert ratio(sums, counts).mean() == pytest.approx(times.mean())
    deviations = standard_deviation(counts, sums, (times**2).sum(axis=1))
    assert deviations.mean() == pytest.approx(times.std(), rel=1e-3)
    bounds = bin_bounds_ns(BIN_COUNT)
    histograms = np.array([np.histogram(row, bounds)[0] for row in times])
    p99 = quantile(histograms, 0.99)
    assert p99.mean() == pytest.approx(np.quantile(times, 0.99) / 1e6, rel=0.005)
    # Exponential: the error of a quantile is sqrt(q / (1 - q) / n) times the mean.
    error = p99.std(ddof=1) / 20**0.5
    assert error == pytest.approx((99 / 100_000) ** 0.5, rel=0.5)


def test_the_report_counts_and_plots(tmp_path):
    case = make_case("ci", 10.0, max_halfwidth_rel=0.1)
    report = Report()
    for number in range(12):
        found = verdict.judge_sample(case, sample(10 + number / 40))
        report.entries.append(Entry(case, found, "made up", 0.1))
    assert report.lines()[0].startswith("PASS         x: mean; found 10 +- 0.7")
    assert any(line.startswith("made-up") and "12" in line for line in report.table())
    assert {Path(path).name for path in report.write(tmp_path)} == {
        "report.txt",
        "report.json",
        "qq.png",
    }
