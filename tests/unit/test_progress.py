import io
import sys

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
    with Bar() as bar:
        bar(1, 4, "compiling")
        bar(2, 4, "linking")
    drawn = capsys.readouterr().err
    assert "compiling" in drawn
    assert "linking" in drawn or "50%" in drawn


def test_an_invisible_bar_remembers_how_far_it_came(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY_S", 0)
    with Bar(visible=False) as bar:
        bar(3, 10, "replications")
    assert bar.last == (3, 10, "replications")
    assert capsys.readouterr().err == ""


def test_a_new_task_starts_a_new_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY_S", 0)
    with Bar() as bar:
        bar(5, 5, "compiling")
        bar(1, 10, "replications")
    assert "10%" in capsys.readouterr().err
