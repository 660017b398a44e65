import fcntl
import io
import os
import pty
import select
import struct
import sys
import termios
import time

import pytest

from meshsim import progress
from meshsim.progress import Bar, reporter, silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_function_is_used_as_it_is():
    calls = []
    report = reporter(lambda *arguments: calls.append(arguments))
    report(1, 2, "compiling")
    assert calls == [(1, 2, "compiling")]


def test_none_draws_on_a_terminal_only(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert reporter(None) is silent
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(reporter(None), Bar)


def test_true_draws_and_false_is_silent():
    assert isinstance(reporter(True), Bar)
    assert reporter(False) is silent


def test_short_work_draws_nothing(capsys):
    with Bar() as bar:
        bar(1, 2, "compiling")
        bar(2, 2, "compiling")
    assert capsys.readouterr().err == ""


def test_long_work_shows_name_and_share(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY_S", 0)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    with Bar() as bar:
        bar(1, 4, "compiling")
        bar(2, 4, "linking")
    drawn = capsys.readouterr().err
    assert "compiling" in drawn
    assert "linking" in drawn or "50%" in drawn


def test_an_invisible_bar_remembers_how_far_it_came(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY_S", 0)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    with Bar(visible=False) as bar:
        bar(3, 10, "replications")
    assert bar.last == (3, 10, "replications")
    assert capsys.readouterr().err == ""


def test_a_new_task_starts_a_new_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY_S", 0)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    with Bar() as bar:
        bar(5, 5, "compiling")
        bar(1, 10, "replications")
    assert "10%" in capsys.readouterr().err


def test_the_bar_moves_on_after_the_delay(capsys, monkeypatch):
    # Much is done within the delay; later steps are small, and fractions at that.
    monkeypatch.setattr(progress, "DELAY_S", 0.05)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    with Bar() as bar:
        bar(0, 10, "replications")
        time.sleep(0.06)
        for done in (5, 5.5, 6):
            bar(done, 10, "replications")
    drawn = capsys.readouterr().err
    assert [f"{share}%" for share in (50, 55, 60) if f"{share}%" in drawn] == ["50%", "55%", "60%"]


def test_a_finished_task_leaves_no_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY_S", 0)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    bar = Bar()
    bar(1, 2, "simulating")
    bar(2, 2, "simulating")
    assert capsys.readouterr().err.rpartition("|")[2].split("\r")[-2].strip() == ""
    bar(1.0, 1.0, "simulated")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [(0, 0), (24, 20)])
def test_any_terminal_shows_the_bar(size, monkeypatch):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    monkeypatch.setattr(progress, "DELAY_S", 0)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Bar() as bar:
            bar(1, 4, "simulating")
        terminal.flush()
        drawn = b""
        while b"simulating" not in drawn:  # a terminal hands on what it has, in parts
            assert select.select([leader], [], [], 5.0)[0], drawn
            drawn += os.read(leader, 4096)
    os.close(leader)
