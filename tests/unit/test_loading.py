"""What `load` says of a path that is no scenario."""

import pytest

from meshsim import load
from meshsim.errors import ConfigError

TRAFFIC = """\
traffic:
  browse: {arrivals: {poisson: 10}, to: a}
"""


@pytest.fixture
def traffic(tmp_path):
    path = tmp_path / "traffic.yaml"
    path.write_text(TRAFFIC)
    return path


def test_a_missing_folder_is_missing(tmp_path, traffic):
    with pytest.raises(ConfigError, match="folder not found"):
        load(tmp_path / "missing", traffic)
    with pytest.raises(ConfigError, match="file not found"):
        load(tmp_path / "missing")


def test_a_folder_without_manifests_says_so(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(ConfigError, match="the folder holds no manifest"):
        load(folder)


def test_a_template_is_told_before_the_traffic(tmp_path):
    (tmp_path / "chart.yaml").write_text("kind: Service\nname: {{ .Release.Name }}\n")
    with pytest.raises(ConfigError, match="is a template"):
        load(tmp_path)


def test_manifests_need_traffic_and_scenarios_have_theirs(tmp_path, traffic):
    folder = tmp_path / "manifests"
    folder.mkdir()
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
    (folder / "a.yaml").write_text(service)
    with pytest.raises(ConfigError, match="manifests state no traffic"):
        load(folder)
    with pytest.raises(ConfigError, match="a scenario states its own traffic"):
        load(folder / "a.yaml", traffic)
