"""Parts of the kernel are compiled by other interpreters, and by this one if those fail."""

import subprocess
import sys

import pytest

from meshsim.jit import JIT_ENABLED
from meshsim.kernel import compilation

PARTS = len(compilation._PARTS)


def worker(program):
    """Return what begins an interpreter that runs `program` instead."""

    def begin():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", program], **pipes)

    return begin


def test_every_long_part_is_a_part():
    assert set(compilation._PARTS) >= compilation._LONGEST


def test_every_part_is_handed_out_once_the_long_ones_first(monkeypatch, tmp_path):
    log = tmp_path / "log"
    program = f"""
import sys
for line in sys.stdin:
    open({str(log)!r}, "a").write(line)
    print(line, end="", flush=True)
"""
    monkeypatch.setattr(compilation, "_begin_worker", worker(program))
    told = []
    compilation._fill_cache(1, lambda *what: told.append(what[:2]))
    order = [int(line) for line in log.read_text().split()]
    assert sorted(order) == list(range(PARTS))
    first = {compilation._PARTS[part] for part in order[: len(compilation._LONGEST)]}
    assert first == compilation._LONGEST
    assert told[0] == (0, PARTS)
    assert told[-1] == (PARTS, PARTS)


@pytest.mark.parametrize("program", ["", "import sys; sys.stdin.readline()"])
def test_an_interpreter_that_fails_leaves_its_parts(monkeypatch, program):
    monkeypatch.setattr(compilation, "_begin_worker", worker(program))
    told = []
    compilation._fill_cache(2, lambda *what: told.append(what[0]))
    assert max(told) == 0


@pytest.mark.skipif(not JIT_ENABLED, reason="nothing is compiled")
def test_an_interpreter_answers_each_part_it_has_compiled():
    part = compilation._PARTS.index("count_tasks")
    with compilation._begin_worker() as process:
        answers, _ = process.communicate(f"{part}\n{part}\n", timeout=120)
    assert answers == f"{part}\n{part}\n"
