"""Every count that is wrong is told, and a sound memory is not blamed."""

from kernel_runs import Run, recorded, worker

from meshsim.kernel import validate


def test_validate_tells_of_every_count_that_is_wrong():
    run = Run(
        {"a": worker({"compute": "9ms"})},
        recorded("0s", "0s"),
        policies={"a": {"routes": [{"timeout": "50ms"}]}},
    ).to(1)
    for name, field in (
        ("hosts", "requests_active"),
        ("hosts", "connections_open"),
        ("clusters", "pending_active"),
        ("clusters", "retries_active"),
        ("endpoints", "busy"),
        ("endpoints", "queued"),
        ("traffic", "in_flight"),
        ("counters", "in_flight"),
        ("counters", "measured_in_flight"),
        ("counters", "exchange_free_count"),
        ("counters", "invalid"),
        ("timers", "tail"),
    ):
        rows = getattr(run.state, name)
        rows[field][0] += 1
        assert validate(run.state), f"{name}.{field}"
        rows[field][0] -= 1
        assert validate(run.state) == []


def test_validate_tells_of_an_event_out_of_order():
    run = Run({"a": worker({"compute": "9ms"}, concurrency=9)}, recorded(*["0s"] * 6)).to(1)
    run.state.events["time_ns"][0] += 10**9
    assert any("heap" in text for text in validate(run.state))
