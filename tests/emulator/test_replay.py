"""A log of stimuli is replayed to the same decisions; what differs is told with its story."""

import json

import pytest
from engine_mesh import Mesh
from engine_rows import cluster, configuration, endpoints, new_engine, route

from emulator.decisions.engine import ProxyEngine, run_seed_of
from emulator.decisions.replay import describe, replay
from emulator.decisions.stimuli import Stimulus, StimulusFile, StimulusLog
from meshsim.cli import main
from meshsim.errors import ConfigError

MS = 1_000_000
RETRY = {
    "num_retries": 2,
    "retry_on": ["5xx"],
    "per_try_timeout": "15ms",
    "previous_hosts": True,
    "base_interval": "5ms",
    "max_interval": "20ms",
}


def eventful(version=1, **fields):
    """A configuration under which most things happen: retries, overflow, hashing, a split."""
    clusters = {
        "b": cluster("LEAST_REQUEST", breakers={"max_connections": 2, "max_pending_requests": 1}),
        "b|v2": cluster(
            "RING_HASH", hash_header="x-user", minimum_ring_size=32, maximum_ring_size=1024
        ),
    }
    routes = {
        "b": (
            route(match=[{"headers": {"x-user": {"prefix": "v"}}}], split=[{"subset": "v2"}]),
            route(timeout="30ms", retry=RETRY, split=[{"weight": 3}, {"subset": "v2"}]),
        )
    }
    return configuration(clusters, routes=routes, version=version, **fields)


def run(engine, *, first=1, requests=60):
    """Carry requests through `engine`: one a millisecond, 12 ms each, a third fail."""
    mesh = Mesh(engine, "b", lambda endpoint: 12 * MS, error_rate=0.33)
    for number in range(first, first + requests):
        headers = {"x-user": "vip" if number % 5 == 0 else f"u{number}", "x-request-id": "é€"}
        key = None if number % 3 else number * 0x9E3779B97F4A7C15 % 2**64
        mesh.at(number * MS, mesh.arrive, number, key, headers)
    return mesh.run()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stimuli.jsonl"


@pytest.fixture
def recorded(path):
    """A log of two proxies, one of which gets a new configuration, is killed and comes back."""
    with StimulusLog(path) as log:
        first = ProxyEngine("a-v1-0", 0, run_seed_of(1), log)
        second = ProxyEngine("a-v1-1", 1, run_seed_of(1), log)
        first.apply(eventful(), 0)
        second.apply(eventful(), 0)
        outcomes = run(first)
        run(second)
        first.apply(eventful(2, members={"b": endpoints("b-v1-1", "b-v1-7")}), 200 * MS)
        run(first, first=201)
        digest = first.close()
        again = ProxyEngine("a-v1-1", 1, run_seed_of(1), log)
        again.apply(eventful(), 0)
        run(again, requests=3)
        again.close()
    assert {outcome.status for outcome in outcomes} >= {200, 500, 503}
    assert {outcome.tries for outcome in outcomes} >= {1, 2, 3}
    return digest


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def first_line_with(lines, name, proxy=0):
    return next(
        number for number, line in enumerate(lines) if line.startswith(f'[{proxy},"{name}"')
    )


# --- The same again -------------------------------------------------------------------------


def test_every_decision_and_the_digests_are_met_again(path, recorded):
    found = replay(path)
    assert found.divergences == ()
    assert found.decisions == len(lines_of(path)) - 1
    assert [(life.name, life.closed) for life in found.lives] == [
        ("a-v1-0", True),
        ("a-v1-1", False),
        ("a-v1-1", True),
    ]
    assert found.lives[0].digest == recorded
    assert not found.cut
    assert found.digest == replay(path).digest
    assert "a-v1-1" in found.report()
    assert "ended without a digest" in found.report()


def test_proxies_may_be_mixed_and_files_joined(path, recorded, tmp_path):
    lines = lines_of(path)
    own = [line for line in lines[1:] if line.startswith("[0,")]
    others = [line for line in lines[1:] if not line.startswith("[0,")]
    mixed = [line for pair in zip(own, others, strict=False) for line in pair]
    joined = tmp_path / "joined"
    shorter = min(len(own), len(others))
    rest = own[shorter:] + others[shorter:]
    joined.write_text("".join([lines[0], *mixed, lines[0], *rest]), encoding="utf-8")
    assert replay(joined).divergences == ()
    assert sorted(life.digest for life in replay(joined).lives) == sorted(
        life.digest for life in replay(path).lives
    )


def test_the_log_holds_only_headers_that_decide(path, recorded):
    text = path.read_text(encoding="utf-8")
    assert "x-user" in text
    assert "x-request-id" not in text


def test_a_configuration_in_force_is_not_written_twice(path):
    with StimulusLog(path) as log:
        engine = new_engine(log=log)
        size = path.stat().st_size
        engine.apply(configuration(version=2), 5)
        log.flush()
        line = path.read_text(encoding="utf-8")[size:].splitlines()[-1]
    assert json.loads(line)[2:] == [{}, {"clusters": 2, "endpoints": 2, "routes": 2}, 5, []]


def test_a_log_is_written_while_it_grows(path):
    with StimulusLog(path) as log:
        engine = new_engine(log=log)
        run(engine, requests=3000)
        assert path.stat().st_size > 250_000
        assert sum(map(len, log._lines)) < 300_000


# --- Killed and damaged ---------------------------------------------------------------------


def test_a_log_that_is_cut_off_is_replayed_up_to_there(path, recorded):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 5])
    found = replay(path)
    assert found.cut
    assert found.divergences == ()
    assert 0 < found.decisions < len(lines_of(path))
    assert "cut off" in found.report()


def test_a_log_that_ends_between_two_lines_is_cut_off_too(path, recorded):
    path.write_text("".join(lines_of(path)[:-1]), encoding="utf-8")
    found = replay(path)
    assert found.cut
    assert found.divergences == ()


def test_every_prefix_is_replayed(path, recorded):
    whole = path.read_bytes()
    for size in range(60, len(whole), len(whole) // 12):
        path.write_bytes(whole[:size])
        assert replay(path).divergences == ()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("\x00\x01", "the line cannot be read"),
        ("[0", "the line cannot be read"),
        ("[" * 100_000, "the line cannot be read"),
        ("7", "no stimulus"),
        ('[0,"dance",1]', "no stimulus has this name"),
        ('[0,"pick",1,true,2]', "the values of 'pick' do not fit"),
        ('[0,"pick",1]', "the values of 'pick' do not fit"),
        ('[-1,"can_send",1,true]', "the values of 'can_send' do not fit"),
        ('{"format":"meshsim-stimuli","version":99}', "another version"),
        ("{}", "no header"),
    ],
)
def test_a_damaged_line_is_one_error_with_its_number(path, recorded, damage, message):
    lines = lines_of(path)
    lines[6] = damage + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        replay(path)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert (problem.file, problem.line) == (str(path), 7)
    assert len(str(problem)) < 400


@pytest.mark.parametrize("text", ["", "hello\n", "[]\n", '{"format":"other"}\n', "\xff\xfe"])
def test_a_file_that_is_no_log_is_refused(path, text):
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"log|damaged"):
        replay(path)


# --- Divergence -----------------------------------------------------------------------------


def test_the_first_decision_that_differs_is_told_with_its_story(path, recorded):
    lines = lines_of(path)
    at = next(
        number
        for number, line in enumerate(lines)
        if line.startswith('[0,"tell"') and json.loads(line)[-1][0] == 2  # BACK_OFF
    )
    values = json.loads(lines[at])
    values[-1][1] += 1 * MS
    lines[at] = json.dumps(values) + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    found = replay(path)
    (divergence,) = found.divergences
    assert (divergence.proxy, divergence.stimulus.line) == ("a-v1-0", at + 1)
    assert divergence.answer.startswith("BACK_OFF until")
    story = [item.name for item in divergence.story]
    assert story[:3] == ["start", "route", "pick"]
    assert {item.arguments[0] for item in divergence.story[1:]} == {values[2]}
    assert "First divergence, a-v1-0: line" in found.report()
    assert found.lives[1].divergence is None  # another proxy is not blamed


@pytest.mark.parametrize("name", ["start", "route", "tell", "pick", "sent", "finish", "close"])
def test_a_line_that_is_missing_or_doubled_is_noticed(path, recorded, name):
    lines = lines_of(path)
    at = first_line_with(lines, name)
    for changed in (lines[:at] + lines[at + 1 :], lines[: at + 1] + lines[at:]):
        path.write_text("".join(changed), encoding="utf-8")
        found = replay(path)
        assert found.divergences or found.cut, name
        if found.divergences:
            assert found.divergences[0].stimulus.line > at


@pytest.mark.parametrize(
    "line",
    [
        '[0,"tell",1,99,0,0,0,[0,0,0,0]]',
        '[0,"tell",1,1,99999999999999999999,0,0,[0,0,0,0]]',
        '[0,"sent",1,1000000000,0,0]',
        '[0,"ended",1,-5,"response",false,0,0,null]',
        '[0,"pick",12345678,0,0]',
        '[0,"can_send",77,true]',
        '[0,"apply",{"clusters":{"b":{}}},{},0,[]]',
        '[0,"apply",{"nonsense":{}},{},0,[]]',
        '[5,"can_send",0,true]',
    ],
)
def test_what_no_engine_can_have_been_told_is_a_divergence(path, recorded, line):
    lines = lines_of(path)
    lines.insert(first_line_with(lines, "pick"), line + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    (divergence,) = replay(path).divergences
    assert describe(divergence.stimulus).startswith("line ")
    assert str(divergence)


def test_stimuli_in_words():
    told = Stimulus(7, 0, "tell", (3, 1, 503, 0, 2 * MS), [2, 9 * MS, 0, 0])
    assert describe(told) == (
        "line 7: tell exchange 3, stimulus RESPONSE, status 503, reset 0, now 2 ms"
        " -> BACK_OFF until 9 ms"
    )
    answered = Stimulus(8, 0, "tell", (3, 4, 0, 0, 9 * MS), [3, 2**63 - 1, 504, 6])
    assert describe(answered).endswith("-> RESPOND 504 UT")
    assert describe(Stimulus(9, 0, "closed", (4,), None)) == "line 9: closed host 4"


def test_reading_yields_every_stimulus(path, recorded):
    file = StimulusFile(path)
    stimuli = list(file)
    assert len(stimuli) == len(lines_of(path)) - 1
    assert stimuli[0] == Stimulus(2, 0, "open", ("a-v1-0", run_seed_of(1)), None)
    assert not file.cut


# --- The command ----------------------------------------------------------------------------


def status_of(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return exit_.value.code or 0


def test_the_command_reports_and_says_by_its_status(path, recorded, capsys):
    assert status_of("replay", path) == 0
    assert recorded[:16] in capsys.readouterr().out
    lines = lines_of(path)
    at = first_line_with(lines, "pick")
    values = json.loads(lines[at])
    values[-1] += 1
    lines[at] = json.dumps(values) + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    assert status_of("replay", path) == 1
    assert "First divergence, a-v1-0" in capsys.readouterr().err
    path.write_text("nothing\n", encoding="utf-8")
    assert status_of("replay", path) == 1
    assert f"{path}:1:" in capsys.readouterr().err
    assert status_of("replay", path.with_name("absent")) == 1
