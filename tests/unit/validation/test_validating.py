"""``meshsim validate``: arguments, streams, files."""

import json

import pytest
from stand_in import StandIn

from meshsim import validation
from meshsim.cli import main
from meshsim.topology import dump_topology
from meshsim.validation import Lengths, suite, validate
from meshsim.validation.calibration import Calibration

SHORT = Lengths(12.0, 1, 12.0, 2, 1)


@pytest.fixture
def call(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(["validate", *arguments])
        streams = capsys.readouterr()
        return exit_.value.code or 0, streams.out, streams.err

    return call


@pytest.fixture
def quick(monkeypatch):
    """Let a stand-in emulate, for seconds; return what the command asked for."""
    asked = []

    def quickly(topology, suite_name, *, recalibrate, **options):
        asked.append((topology, suite_name, recalibrate))
        machine = StandIn(Calibration(hop_ns=500e3))
        return validate(
            topology, suite_name, emulator=machine, plan=SHORT, recalibrate=True, **options
        )

    monkeypatch.setattr(validation, "validate", quickly)
    return asked


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(dump_topology(suite()[0].topology))
    return str(path)


@pytest.mark.parametrize("arguments", [(), ("x.yaml", "--suite"), ("x.yaml", "--dilation", "0.5")])
def test_a_wrong_command_line_has_status_two(call, arguments):
    assert call(*arguments)[0] == 2


def test_an_unknown_suite_is_told_with_the_known_ones(call):
    status, out, err = call("--suite", "fulll")
    assert (status, out) == (1, "")
    assert "quick, full" in err
    assert "did you mean full?" in err


def test_a_scenario_is_validated_and_reported(call, quick, scenario, tmp_path):
    folder, file = tmp_path / "report", tmp_path / "scores.json"
    status, out, _ = call(scenario, "--report", str(folder), "--json", str(file))
    assert status == 0
    assert "Verdict" in out
    assert "load-80" in out
    assert {"report.html", "report.md", "predictions.json"} <= {p.name for p in folder.iterdir()}
    assert json.loads(file.read_text())["counts"]["outside"] == 0
    assert [(asked[0].name, asked[1:]) for asked in quick] == [("load-80", ("quick", False))]


def test_json_goes_to_stdout_alone(call, quick, scenario):
    status, out, _ = call(scenario, "--json", "-")
    assert status == 0
    assert {"scores", "calibration", "findings"} <= json.loads(out).keys()
