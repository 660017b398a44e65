"""Users of a traffic class, as limits tell them apart."""

from collections import Counter

import pytest
from kernel_runs import Run, recorded, worker

TWO_A_USER = {
    "token_bucket": {"max_tokens": 900, "fill_interval": "100s"},
    "descriptors": [
        {"entries": {"user": "*"}, "token_bucket": {"max_tokens": 2, "fill_interval": "100s"}}
    ],
}


@pytest.mark.parametrize("inbound", [False, True])
def test_each_user_of_a_class_has_a_bucket_if_the_limit_tells_them_apart(inbound):
    to = {"to": "b", "arrivals": recorded(*(f"{number}ms" for number in range(100)))}
    policies = {
        "load_balancing": {"policy": "MAGLEV", "hash_header": "User", "table_size": 11},
        **({"rate_limit": TWO_A_USER} if inbound else {"routes": [{"rate_limit": TWO_A_USER}]}),
    }
    run = Run(
        {"b": worker({"compute": "1us"}, concurrency=99)},
        traffic={"crowd": {**to, "headers": {"USER": "u"}, "users": 7}},
        mesh="istio-sidecar" if inbound else "none",
        policies={"b": policies},
    )
    passed = Counter(span.status for span in run.to(1000).spans())
    assert passed == {200: 14, 429: 86}


def test_a_header_of_the_call_is_every_users():
    run = Run(
        {
            "a": worker({"call": {"service": "b", "headers": {"User": "a"}}}, concurrency=99),
            "b": worker({"compute": "1us"}, concurrency=99),
        },
        traffic={
            "crowd": {
                "to": "a",
                "arrivals": recorded(*(f"{number}ms" for number in range(20))),
                "headers": {"user": "u"},
                "users": 7,
            }
        },
        policies={
            "b": {
                "load_balancing": {"policy": "MAGLEV", "hash_header": "user", "table_size": 11},
                "routes": [{"rate_limit": TWO_A_USER}],
            }
        },
    )
    assert Counter(span.status for span in run.to(1000).spans("a>b")) == {200: 2, 429: 18}
