"""Defaults in a few lines."""

from meshsim.results.assumptions import assumption_lines

UNLIMITED = "4294967295 (no limit): Istio default (policy.go)"


def service(name, retries="2", balancing="LEAST_REQUEST"):
    """Defaults of one service, as a simulation passes them."""
    retry = f"policies.{name}.routes[0].retry"
    return {
        f"policies.{name}.load_balancing.policy": f"{balancing}: Istio default (policy.go)",
        f"policies.{name}.load_balancing.choice_count": "2: Envoy default (least_request.proto)",
        f"policies.{name}.circuit_breakers.max_requests": UNLIMITED,
        f"policies.{name}.circuit_breakers.max_retries": UNLIMITED,
        f"policies.{name}.routes[0].timeout": "0s: Istio default (disabled)",
        f"{retry}.num_retries": f"{retries}: Istio default (retry.go)",
        f"{retry}.retry_on": "[connect-failure, unavailable]: Istio default (retry.go)",
        f"policies.{name}.subsets.v1.load_balancing.policy": "RANDOM: Istio default (policy.go)",
    }


def test_services_that_agree_share_their_lines_without_being_named():
    assert assumption_lines(service("a") | service("b.c")) == [
        "load balancing LEAST_REQUEST: Istio default (policy.go)",
        "2 retries on connect-failure, unavailable: Istio default (retry.go)",
        "no route timeout: Istio default (disabled)",
        "circuit breakers: no limit on max_requests, max_retries: Istio default (policy.go)",
        "4 further defaults: meshsim explain SCENARIO policies",
    ]


def test_services_are_named_where_they_differ():
    defaults = service("a") | service("b", retries="1")
    for name in "cdef":
        defaults |= service(name)
    lines = assumption_lines(defaults)
    text = "on connect-failure, unavailable: Istio default (retry.go)"
    assert f"2 retries {text}, for 5 services" in lines
    assert f"1 retry {text}, for b" in lines


def test_a_stated_number_of_retries_is_not_a_default():
    defaults = service("a")
    del defaults["policies.a.routes[0].retry.num_retries"]
    lines = assumption_lines(defaults)
    assert "retries on connect-failure, unavailable: Istio default (retry.go)" in lines


def test_nothing_assumed():
    assert assumption_lines({}) == []
    assert assumption_lines({"services.a.port": "default port (the Service names none)"}) == [
        "1 further default: meshsim explain SCENARIO policies"
    ]
