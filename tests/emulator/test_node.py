"""A node process' parts: messages, members, spec, shares and the dilation."""

import asyncio
import contextlib
import socket

import numpy as np
import pytest
from mesh_scenarios import pair

from emulator.running.budget import PROCESSES_MAX, assign, choose_dilation, hop_rates
from emulator.running.lag import LagProbe
from emulator.running.messages import Answer, Peer, PeerLost, SocketCarrier, pack, unpack
from emulator.running.node import Node
from emulator.running.node_spec import NodeSpec, compiled_of
from meshsim.errors import ConfigError, MeshsimError
from meshsim.meshes import resolve
from meshsim.state.record import WINDOW_DTYPE
from meshsim.topology import with_values
from meshsim.topology.compiled.layout import lay_out
from meshsim.topology.model import Topology


def test_messages_carry_values_and_arrays():
    rows = np.zeros(3, WINDOW_DTYPE)
    rows["arrivals"] = 1, 2, 3
    values, arrays = unpack(pack({"answer": 1}, {"rows": rows}))
    assert values == {"answer": 1}
    assert (arrays["rows"] == rows).all()
    assert arrays["rows"].dtype == rows.dtype


def test_objects_do_not_travel():
    with pytest.raises(ValueError, match="objects"):
        pack({}, {"rows": np.array([object()])})


@pytest.mark.parametrize("data", [b"", b"\0\0\0\2[]", b"\0\0\0\2{", b"\xff\xff\xff\xff{}"])
def test_noise_is_no_message(data):
    with pytest.raises(ValueError):  # noqa: PT011 - which one does not matter
        unpack(data)


@contextlib.asynccontextmanager
async def conversation(verbs):
    """Two peers over a socket pair; the second one answers `verbs`."""
    here, there = socket.socketpair()
    asker, answerer = Peer("there"), Peer("here", verbs)
    carriers = [
        await SocketCarrier.connect(end, peer) for end, peer in ((here, asker), (there, answerer))
    ]
    try:
        yield asker, answerer
    finally:
        asker.close()
        answerer.close()
        for carrier in carriers:
            await carrier.wait_closed()


def test_a_large_answer_arrives_whole():
    async def run():
        large = np.arange(1_000_000)

        async def report(values):
            return Answer({"twice": 2 * values["number"]}, {"large": large})

        async with conversation({"report": report}) as (asker, _):
            answers = await asyncio.gather(*(asker.ask("report", number=i) for i in range(3)))
        assert [answer.values["twice"] for answer in answers] == [0, 2, 4]
        assert all((answer.arrays["large"] == large).all() for answer in answers)

    asyncio.run(run())


def test_a_question_ends_when_its_asker_is_cancelled_as_the_answer_comes():
    """Else what asks in a loop goes on for ever, and with it the run that waits for its end."""

    class Deaf:
        def send(self, message):
            pass

        def close(self):
            pass

    async def run():
        peer = Peer("there")
        peer.carry(Deaf())
        asking = asyncio.ensure_future(peer.ask("now"))
        await asyncio.sleep(0)
        peer.receive(pack({"answer": 1, "values": {}}))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(run())


def test_errors_come_back_by_name():
    async def run():
        async def fail(values):
            raise ConfigError("no endpoint matches")

        async with conversation({"fail": fail}) as (asker, answerer):
            with pytest.raises(MeshsimError, match="no endpoint matches"):
                await asker.ask("fail")
            with pytest.raises(MeshsimError, match="no such verb"):
                await asker.ask("sing")
            answerer.receive(b"noise")  # is dropped
            answerer.receive(pack({"answer": 99}))  # to nobody's question

    asyncio.run(run())


def test_silence_and_loss_end_a_question():
    async def run():
        async def wait(values):
            await asyncio.Event().wait()
            return Answer()

        async with conversation({"wait": wait}) as (asker, answerer):
            with pytest.raises(PeerLost, match="did not answer"):
                await asker.ask("wait", 0.05)
            question = asyncio.ensure_future(asker.ask("wait"))
            await asyncio.sleep(0)
            answerer.close()
            with pytest.raises(PeerLost, match="gone"):
                await question
            with pytest.raises(PeerLost, match="gone"):
                await asker.ask("wait")

    asyncio.run(run())


def test_a_spec_survives_the_way():
    spec = NodeSpec(
        topology=resolve(pair()).model_dump_json(),
        endpoints=("back-v1-1",),
        classes=(),
        mesh="mesh",
        bus_url="mqtt://127.0.0.1:1",
        control_plane_key="00" * 32,
        enrolments={"back-v1-1": {"password": "p", "token": "t", "principal": ""}},
        seed=1,
        duration_ns=10**9,
        dilation=2.0,
    )
    (values, _) = unpack(pack(spec.to_values()))
    assert NodeSpec.from_values(values) == spec
    assert Topology.model_validate_json(spec.topology) == resolve(pair())
    with pytest.raises(TypeError):
        NodeSpec.from_values({**values, "colour": "red"})


def test_the_resolved_topology_compiles_alike_on_both_sides():
    resolved = resolve(pair())
    there = Topology.model_validate_json(resolved.model_dump_json())
    assert compiled_of(there).catalog == compiled_of(resolved).catalog


def test_a_node_that_never_started_closes():
    async def run():
        node = Node("node two")
        await node.close()
        await node.close()
        assert node.stopped.is_set()

    asyncio.run(run())


def test_the_probe_measures_lag_and_gives_the_collector_back():
    async def run():
        import gc

        probe = LagProbe()
        assert probe.quantiles_ms() == {}
        probe.start()
        assert not gc.isenabled()
        while not probe.quantiles_ms():  # noqa: ASYNC110 - the probe tells nobody
            await asyncio.sleep(0.005)
        probe.stop()
        probe.stop()
        assert gc.isenabled()
        assert 0 <= probe.quantiles_ms()["p50"] <= probe.quantiles_ms()["max"]

    asyncio.run(run())


# --- Shares and dilation --------------------------------------------------------------------


def shares_of(topology, processes=None):
    resolved = resolve(topology)
    return [
        (share.process, share.endpoints, share.classes)
        for share in assign(resolved, lay_out(resolved), processes)
    ]


def test_each_modelled_node_is_a_process():
    assert shares_of(pair()) == [
        ("edge", (), ("users",)),
        ("node one", ("front-v1-0", "back-v1-0"), ()),
        ("node two", ("back-v1-1",), ()),
    ]


def test_processes_can_be_counted_or_one_a_replica():
    assert [share[1] for share in shares_of(pair(), 1)][1:] == [
        ("front-v1-0", "back-v1-0", "back-v1-1")
    ]
    assert [share[1] for share in shares_of(pair(), "each")][1:] == [
        ("front-v1-0",),
        ("back-v1-0",),
        ("back-v1-1",),
    ]
    with pytest.raises(ConfigError, match=str(PROCESSES_MAX)):
        shares_of(with_values(pair(), {"services.back.workloads.v1.replicas": 200}), "each")


def dilation_of(changes, cores=2):
    resolved = resolve(with_values(pair(), changes))
    layout = lay_out(resolved)
    shares = assign(resolved, layout)
    return choose_dilation(resolved, layout, shares, cores, sidecars=True)


def test_offered_hops_follow_the_calls():
    assert hop_rates(resolve(pair())) == {"front": 60.0, "back": 60.0}


@pytest.mark.parametrize(
    ("rate", "service_ms", "factor", "reason"),
    [
        # The median of 2 ms and the back's, raised to 20 ms.
        (60, 2, 10.0, "median service time"),
        # 2000 hops/s at 0.6 ms: 1.2 s of CPU a second; 1.5 of them at the node, of 500 hops/s.
        (1000, 40, 3.0, "at most 500 hops/s"),
        (60, 40, 1.0, "keeps up"),
    ],
)
def test_the_dilation_is_the_least_at_which_all_rules_hold(rate, service_ms, factor, reason):
    changes = {
        "traffic.users.rate": rate,
        "services.front.workloads.v1.steps": [
            {"compute": {"constant": f"{service_ms}ms"}},
            {"call": "back"},
        ],
        "services.back.workloads.v1.steps": [{"compute": {"constant": f"{service_ms}ms"}}],
    }
    found = dilation_of(changes)
    assert found.factor == factor
    assert reason in found.reason


def test_few_cores_need_more_time():
    steps = [{"compute": {"constant": "40ms"}}]
    changes = {
        "traffic.users.rate": 300,
        "services.front.workloads.v1.steps": [*steps, {"call": "back"}],
        "services.back.workloads.v1.steps": steps,
    }
    assert dilation_of(changes, cores=8).reason == "the machine keeps up"
    assert "of 1 cores" not in dilation_of(changes, cores=8).reason
