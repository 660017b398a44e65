import pytest

from meshsim.errors import ConfigError
from meshsim.workload.recorded import read_times_ns


def test_times_are_read(tmp_path):
    path = tmp_path / "times.txt"
    path.write_text("# from a trace\n0\n0.25\n\n0.25\n1e1\n")
    assert read_times_ns(path) == (0, 250_000_000, 250_000_000, 10_000_000_000)


def test_every_bad_line_is_listed(tmp_path):
    path = tmp_path / "times.txt"
    path.write_text("1\nsoon\n-1\n0.5\nnan\n2\n")
    with pytest.raises(ConfigError) as error:
        read_times_ns(path)
    assert [problem.line for problem in error.value.problems] == [2, 3, 4, 5]
    assert error.value.problems[2].message == "times descend"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_unreadable_file_is_refused(tmp_path, content):
    path = tmp_path / "times.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot read"):
        read_times_ns(path)
