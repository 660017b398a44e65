"""Fingerprints, sealed files, calibrations on disk."""

import json

import pytest

from meshsim.errors import ConfigError
from meshsim.validation.calibration import Anchor, Calibration
from meshsim.validation.store import (
    data_folder,
    fingerprint,
    load_calibration,
    machine,
    read_json,
    save_calibration,
    write_json,
)

FOUND = Calibration((1.0, 2.0), 3.0, 4.0, 5.0, 6.0, {"null": Anchor(7, 8.0, 9.0, 0.5)}, ("a note",))


def test_a_machine_has_one_fingerprint():
    facts = machine()
    assert fingerprint(facts) == fingerprint(machine())
    assert fingerprint(facts) != fingerprint({**facts, "python": "2.7.18"})
    assert {"python", "cores", "meshsim"} <= facts.keys()


def test_a_calibration_is_found_again_on_its_machine_only(tmp_path):
    save_calibration(FOUND, {"cores": "2"}, tmp_path)
    assert load_calibration({"cores": "2"}, tmp_path) == FOUND
    assert load_calibration({"cores": "4"}, tmp_path) is None


def test_a_file_that_was_edited_is_refused(tmp_path):
    path = save_calibration(FOUND, {"cores": "2"}, tmp_path)
    sealed = json.loads(path.read_text())
    sealed["content"]["calibration"]["hop_ns"] = 0.0
    path.write_text(json.dumps(sealed))
    with pytest.raises(ConfigError, match="edited"):
        load_calibration({"cores": "2"}, tmp_path)
    path.write_text("not json")
    with pytest.raises(ConfigError, match="edited"):
        read_json(path)


def test_a_file_carries_its_time_and_digest(tmp_path):
    digest = write_json(tmp_path / "deep" / "a.json", {"x": 1})
    sealed = read_json(tmp_path / "deep" / "a.json")
    assert (sealed["digest"], sealed["content"]) == (digest, {"x": 1})
    assert sealed["written"].endswith("+00:00")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_the_folder_follows_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "meshsim" / "calibrations"
