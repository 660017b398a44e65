"""What is written is read back: loads(dumps(t)) == t, for any topology."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshsim.topology import Topology, dump_topology, json_schema, loads_topology
from meshsim.units import format_duration

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=8
) | st.sampled_from(["no", "010", "1e3", "12:30", "a.b", "null", "<<", "~", "a: b", "- x", "{{"])
durations = st.integers(1, 10**14).map(format_duration)
probabilities = st.floats(0, 1)
rates = st.floats(0, 1e9)


@st.composite
def lognormals(draw):
    mean = draw(st.integers(1000, 10**12))
    ratio = draw(st.floats(1.01, 14.9))
    return {"lognormal": {"mean": f"{mean}ns", "p99": f"{int(mean * ratio)}ns"}}


distributions = st.one_of(
    durations,
    st.fixed_dictionaries({"exponential": durations}),
    lognormals(),
    st.fixed_dictionaries({"mean": durations, "shape": st.floats(0.01, 100)}).map(
        lambda gamma: {"gamma": gamma}
    ),
    st.lists(durations, min_size=1, max_size=3).map(lambda v: {"empirical": {"values": v}}),
    st.tuples(durations, durations).map(
        lambda pair: {
            "hyperexponential": {
                "phases": [
                    {"probability": 0.25, "mean": pair[0]},
                    {"probability": 0.75, "mean": pair[1]},
                ]
            }
        }
    ),
)


@st.composite
def step_lists(draw, services, depth=2):
    steps = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(
            st.sampled_from(["compute", "sleep", "call", "parallel", "cache"][: 5 if depth else 3])
        )
        if kind == "call":
            target = draw(st.sampled_from(services))
            long = {"service": target, "headers": draw(st.dictionaries(names, names, max_size=2))}
            step = {"call": draw(st.sampled_from([target, long]))}
        elif kind == "parallel":
            step = {"parallel": [draw(step_lists(services, depth - 1)) for _ in range(2)]}
        elif kind == "cache":
            miss = [*draw(step_lists(services, depth - 1)), {"sleep": "1ms"}]
            step = {"cache": {"keys": draw(st.integers(1, 99)), "ttl": "1s", "miss": miss}}
        else:
            step = {kind: draw(distributions)}
        # Below 1, so that no cycle is endless.
        step["probability"] = draw(st.floats(0, 0.99))
        steps.append(step)
    return steps


@st.composite
def workloads(draw, services):
    return draw(
        st.fixed_dictionaries(
            {},
            optional={
                "labels": st.dictionaries(names, names, max_size=2),
                "replicas": st.integers(0, 50),
                "concurrency": st.integers(1, 1000),
                "queue_limit": st.integers(0, 99),
                "discipline": st.sampled_from(["FCFS", "PRIORITY"]),
                "patience": distributions,
                "hold_worker": st.booleans(),
                "cpu": st.floats(0.01, 64),
                "error_rate": probabilities,
                "steps": step_lists(services),
            },
        )
    )


arrivals = st.one_of(
    rates.map(lambda rate: {"poisson": rate}),
    distributions.map(lambda interval: {"renewal": {"interval": interval}}),
    st.fixed_dictionaries({"mean": rates, "amplitude": probabilities}).map(
        lambda diurnal: {"diurnal": diurnal}
    ),
    st.lists(st.integers(0, 10**12), min_size=1, max_size=4).map(
        lambda times: {"recorded": {"times": [f"{time}ns" for time in sorted(times)]}}
    ),
)
matches = st.fixed_dictionaries(
    {}, optional={"path": names | names.map(lambda text: {"prefix": text}), "method": names}
)
routes = st.fixed_dictionaries(
    {},
    optional={
        "name": names,
        "match": st.lists(matches, max_size=2),
        "timeout": durations,
        "split": st.lists(
            st.fixed_dictionaries({"weight": st.integers(1, 9)}), min_size=1, max_size=2
        ),
        "retry": st.fixed_dictionaries(
            {}, optional={"num_retries": st.integers(0, 9), "retry_on": st.just(["5xx", "reset"])}
        ),
    },
)


@st.composite
def topologies(draw):
    services = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    return Topology.model_validate(
        {
            "name": draw(names),
            "question": draw(names),
            "services": {
                name: {
                    "port": draw(st.integers(1, 65535)),
                    "workloads": draw(
                        st.dictionaries(names, workloads(services), min_size=1, max_size=2)
                    ),
                }
                for name in services
            },
            "traffic": draw(
                st.dictionaries(
                    names,
                    st.fixed_dictionaries(
                        {"to": st.sampled_from(services), "arrivals": arrivals},
                        optional={"headers": st.dictionaries(names, names, max_size=2)},
                    ),
                    max_size=2,
                )
            ),
            "policies": draw(
                st.dictionaries(
                    st.sampled_from(services),
                    st.fixed_dictionaries({}, optional={"routes": st.lists(routes, max_size=2)}),
                    max_size=2,
                )
            ),
        }
    )


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(topologies())
def test_nothing_is_lost(topology):
    text = dump_topology(topology)
    again = loads_topology(text)
    assert again == topology
    assert dump_topology(again) == text


def test_the_schema_does_not_change_from_call_to_call():
    assert json_schema() == json_schema()
