"""VirtualService: faults, mirrors and redirects."""

from collections.abc import Callable

import pytest
from test_istio_routes import SUBSETS, routes, told, virtual_service

from meshsim.errors import ConfigError
from meshsim.topology.model import Topology

Load = Callable[..., Topology]
ROUTE = "  route: [{destination: {host: web}}]\n"


def one(load: Load, rule: str) -> Topology:
    return load(SUBSETS, virtual_service(f"- {rule}\n{ROUTE}"))


def test_a_delay_and_an_abort(load: Load) -> None:
    topology = one(
        load,
        "fault: {delay: {fixedDelay: 7s, percentage: {value: 12.5}},"
        " abort: {httpStatus: 500, percentage: {value: 0.1}}}",
    )
    fault = routes(topology)[0].fault
    assert fault is not None
    assert fault.delay is not None
    assert (fault.delay.fixed_delay, fault.delay.percentage) == (7_000_000_000, 12.5)
    assert fault.abort is not None
    assert (fault.abort.http_status, fault.abort.percentage) == (500, 0.1)
    place = topology.provenance["policies.web.routes[0].fault.delay.fixed_delay"]
    assert str(place.file).endswith("b1.yaml")
    assert place.line == 7
    assert not told(topology, "not simulated")


@pytest.mark.parametrize(
    ("fault", "share"),
    [
        ("{delay: {fixedDelay: 1s, percent: 30}}", 30.0),
        ("{delay: {fixedDelay: 1s, percent: 30, percentage: {value: 5}}}", 5.0),
        ("{delay: {fixedDelay: 1s}}", 0.0),
        ("{delay: {fixedDelay: 1s, percentage: {}}}", 0.0),
    ],
)
def test_the_share_of_a_delay(load: Load, fault: str, share: float) -> None:
    topology = one(load, f"fault: {fault}")
    found = routes(topology)[0].fault
    assert found is not None
    assert found.delay is not None
    assert found.delay.percentage == share
    assert told(topology, "no request is delayed") is (share == 0)


def test_an_abort_reads_no_percent(load: Load) -> None:
    topology = one(load, "fault: {abort: {httpStatus: 500, percent: 100}}")
    fault = routes(topology)[0].fault
    assert fault is not None
    assert fault.abort is not None
    assert fault.abort.percentage == 0
    assert told(topology, "spec.http[0].fault.abort.percent is not simulated yet")
    assert told(topology, "no request is aborted")


def test_a_grpc_abort_is_a_failure(load: Load) -> None:
    topology = one(load, "fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 1}}}")
    fault = routes(topology)[0].fault
    assert fault is not None
    assert fault.abort is not None
    assert fault.abort.http_status == 503
    assert told(topology, "UNAVAILABLE: simulated as HTTP status 503")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("{delay: {percentage: {value: 1}}}", "a delay needs a duration"),
        ("{abort: {percentage: {value: 1}}}", "an abort needs a status"),
        ("{abort: {httpStatus: 99, percentage: {value: 1}}}", "from 200 to 599"),
        ("{delay: {fixedDelay: 1s, percentage: {value: 101}}}", "from 0 to 100"),
    ],
)
def test_a_fault_that_istio_would_refuse(load: Load, fault: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        one(load, f"fault: {fault}")


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("mirror: {host: web, subset: v2}", [("web", "v2", 100.0)]),
        (
            "mirror: {host: web, subset: v2}\n  mirrorPercentage: {value: 12.5}",
            [("web", "v2", 12.5)],
        ),
        ("mirror: {host: web}\n  mirrorPercent: 5", [("web", None, 5.0)]),
        ("mirror: {host: web}\n  mirror_percent: 5", [("web", None, 5.0)]),
        (
            "mirrors: [{destination: {host: web, subset: v1}},"
            " {destination: {host: web, subset: v2}, percentage: {value: 3}}]",
            [("web", "v1", 100.0), ("web", "v2", 3.0)],
        ),
        ("mirrorPercentage: {value: 5}", []),
    ],
)
def test_mirrors(load: Load, rule: str, wanted: list[object]) -> None:
    from meshsim.meshes import resolve

    topology = resolve(one(load, rule))
    mirrors = [(item.service, item.subset, item.percentage) for item in routes(topology)[0].mirrors]
    assert mirrors == wanted


def test_a_mirror_to_an_unknown_subset_finds_nobody(load: Load) -> None:
    topology = one(load, "mirror: {host: web, subset: v7}")
    assert told(topology, "subset 'v7' of web is not defined")
    assert "v7" in topology.policies["web"].subsets


def test_a_redirect(load: Load) -> None:
    rule = "- redirect: {authority: new.example, uri: /x, redirectCode: 307}\n"
    (route,) = routes(load(virtual_service(rule)))
    assert route.redirect is not None
    assert (route.redirect.host, route.redirect.path, route.answer) == ("new.example", "/x", 307)
    with pytest.raises(ConfigError, match="no such redirect"):
        load(virtual_service("- redirect: {uri: /x, redirectCode: 304}\n"))
