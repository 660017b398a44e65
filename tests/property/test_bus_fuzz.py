"""Bus messages of any shape: refused with a reason or taken; never a crash, never a hang.

`MESHSIM_FUZZ_INPUTS` sets how many inputs each test draws (`make fuzz`: 100,000).
"""

import asyncio
import contextlib
import json
import os

import pytest
from bus_fakes import CLOCK, KEY, MESH, configuration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.control.agent import Agent
from emulator.control.bus import Credential
from emulator.control.controlplane import ControlPlane
from meshsim.controlplane.acknowledgement import read_acknowledgements, read_held
from meshsim.controlplane.configuration import TYPES
from meshsim.controlplane.enrolment import read_request
from meshsim.controlplane.signing import Signer
from meshsim.controlplane.topics import CONTROL_PLANE, Topics
from meshsim.errors import ConfigError

INPUTS = int(os.environ.get("MESHSIM_FUZZ_INPUTS", "300"))
TOPICS = Topics(MESH)
SIGNER = Signer(KEY, MESH)
VALID = {
    kind: configuration("a", 9000, ("cart", "cart|v2")).to_json(kind) | {"version": 3}
    for kind in TYPES
}

fuzz = settings(
    max_examples=INPUTS,
    deadline=2000,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "cart", "routes", "RING_HASH", "0s", "1h", -1, 2**53, 2**64, 1e400]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=8), st.sampled_from(["version", "digest", "cart", "kind"])),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


def places(value, path=()):
    """Yield the path of every part of `value`."""
    yield path
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from places(value[key], (*path, key))


def replaced(value, path, part):
    """Return a copy of `value` with the part at `path` replaced."""
    if not path:
        return part
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], part)
    return copy


@st.composite
def mutated(draw):
    """Draw a resource that was valid before up to three of its parts were replaced."""
    kind = draw(st.sampled_from(TYPES))
    resource = VALID[kind]
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(sorted(places(resource), key=str)))
        if path:
            resource = replaced(resource, path, draw(values))
    return kind, resource


def dumped(value):
    return json.dumps(value).encode()  # NaN and Infinity too


payloads = st.one_of(
    st.binary(max_size=300), values.map(dumped), values.map(dumped).map(lambda raw: raw[:-1])
)


def make_agent():
    key = KEY.public_key().public_bytes_raw()
    return Agent("a", MESH, "mqtt://127.0.0.1:9", Credential("a", "a"), key, CLOCK)


def signed(payload):
    return KEY.sign(b"meshsim control plane 1\x00" + payload) + payload


@pytest.fixture(scope="module")
def loop():
    """A loop for the timers that an agent sets; nothing is sent."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def deliver(loop, agent, topic, payload):
    async def work():
        agent._on_message(topic, payload, False)
        if agent._held_timer is not None:
            agent._held_timer.cancel()
            agent._held_timer = None

    loop.run_until_complete(work())


@fuzz
@given(case=mutated())
def test_a_signed_resource_of_any_shape_is_taken_or_refused(loop, case):
    kind, resource = case
    agent = make_agent()
    for item in TYPES:
        deliver(loop, agent, TOPICS.config("a", item), SIGNER.seal(VALID[item] | {"version": 2}))
    assert agent.is_ready
    before = agent.configuration
    deliver(loop, agent, TOPICS.config("a", kind), signed(dumped({"mesh": MESH, **resource})))
    after = agent.configuration
    if agent.counters["refused"]:
        assert after is before
    if after is not before:
        # What was taken can be written, and read again as the same.
        assert after.from_json([after.to_json(item) for item in TYPES]) == after


@fuzz
@given(
    topic=st.one_of(
        st.sampled_from([TOPICS.config("a", kind) for kind in TYPES]),
        st.sampled_from([TOPICS.of("certificate", "a"), TOPICS.config("b", "x"), TOPICS.hello]),
        st.text(max_size=60),
    ),
    payload=payloads,
    is_signed=st.booleans(),
)
def test_an_agent_survives_any_message(loop, topic, payload, is_signed):
    agent = make_agent()
    deliver(loop, agent, topic, signed(payload) if is_signed else payload)
    assert agent.configuration.versions == {}


@fuzz
@given(payload=payloads)
@pytest.mark.parametrize("read", [read_acknowledgements, read_held, read_request])
def test_a_statement_is_read_or_refused(read, payload):
    with contextlib.suppress(ConfigError):
        read(payload)


@fuzz
@given(
    family=st.sampled_from(["state", "ack", "csr", "config", "hello", ""]),
    proxy=st.sampled_from(["a", "b", "+", ""]),
    payload=payloads,
)
def test_a_control_plane_survives_any_message(family, proxy, payload):
    control = CONTROL
    before = control.version
    control._start = lambda work: work.close()
    topic = TOPICS.of(family, proxy) if family else proxy
    control._on_message(topic, payload, False)
    assert control.version == before


CONTROL = ControlPlane(
    "mqtt://127.0.0.1:9",
    Credential(CONTROL_PLANE, CONTROL_PLANE),
    MESH,
    {"a": configuration("a")},
    KEY,
    CLOCK,
)
