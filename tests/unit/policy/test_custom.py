"""Policies of the user's own: compiled alone, called by address, refused in one sentence."""

import custom_policies as own
import numpy as np
import pytest
from kernel_runs import Run, recorded, worker
from policy_rows import make_cluster

import meshsim as ms
from meshsim.jit import JIT_ENABLED
from meshsim.policy import custom
from meshsim.policy.hashing import NO_HASH_KEY
from meshsim.state.codes import CUSTOM, NO_HOST, RANDOM


def cluster_of(policy, count=3, **fields):
    cluster = make_cluster(CUSTOM, [1] * count, custom_pick=policy.address, **fields)
    memory = np.zeros(max(policy.memory, 1))
    cluster.clusters["memory_count"][1] = policy.memory
    return cluster._replace(memory=memory)


def test_it_picks_among_the_members_with_the_proxys_stream():
    built_in = make_cluster(RANDOM, [1] * 7).picks(100)
    assert cluster_of(own.at_random, 7).picks(100) == built_in


def test_it_remembers():
    assert cluster_of(own.in_turn).picks(7) == [0, 1, 2, 0, 1, 2, 0]


def test_it_sees_the_key_and_the_reselection():
    cluster = cluster_of(own.by_key, 5)
    assert cluster.pick(hash_key=3) == 3
    assert cluster.pick(hash_key=3, attempt_number=4) == 2
    assert NO_HASH_KEY % np.uint64(1000) % np.uint64(5) == cluster.pick(hash_key=NO_HASH_KEY)


def test_no_host_is_an_answer_and_a_position_out_of_range_is_counted():
    cluster = cluster_of(own.nobody)
    assert cluster.pick() == NO_HOST
    assert cluster.clusters["invalid_picks"][1] == 0
    cluster = cluster_of(own.beyond)
    assert cluster.pick() == NO_HOST
    assert cluster.clusters["invalid_picks"][1] == 1


def run(policies, *times, body=None, **fields):
    services = {"a": worker(*(body or [{"sleep": "1ms"}]), concurrency=9, **fields)}
    return Run(services, recorded(*times), policies={"a": policies}).to(1000)


def test_the_kernel_refuses_a_run_with_positions_out_of_range():
    ended = run({"load_balancing": own.beyond}, "0s", "1ms")
    with pytest.raises(ms.ConfigError, match="of a returned no position of a member; found: 2 ti"):
        ended.kernel.record()


def test_a_load_balancer_learns_from_responses():
    body = [{"sleep": "1ms"}]
    services = {"a": {"workloads": {"v1": worker(*body), "v2": worker({"sleep": "5ms"})}}}
    policies = {"a": {"load_balancing": own.fastest}}
    ended = Run(services, recorded("0s", "10ms", "20ms", "30ms"), policies=policies).to(100)
    assert ended.ends() == [1, 15, 21, 31]  # v1, never asked v2, then v1 again


def test_a_retry_policy_decides_on_conditions_and_back_off():
    retry = {"num_retries": 3, "custom": own.thrice}
    ended = run({"routes": [{"retry": retry}]}, "0s", error_rate=1.0)
    # back-offs of 1, 2 and 3 ms; what fails does so at once
    assert ended.ends() == [6]
    assert (ended.spans()[0].status, ended.spans()[0].flag) == (500, "URX")
    assert ended.spans()[0].tries == 4


def test_an_admission_policy_answers_in_place_of_the_service():
    ended = run({"admission": own.every_other}, "0s", "10ms", "20ms", "30ms")
    assert [span.status for span in ended.spans()] == [200, 503, 200, 503]
    assert [span.flag for span in ended.spans()] == ["-", "UO", "-", "UO"]
    ended = run({"admission": own.two_at_once}, "0s", "100us", "200us", "2ms")
    assert sorted(span.status for span in ended.spans()) == [200, 200, 200, 429]


def test_each_proxy_has_a_memory_of_its_own():
    services = {
        "a": worker({"call": "b"}, replicas=2, concurrency=9),
        "b": worker({"sleep": "1ms"}, replicas=2, concurrency=9),
    }
    policies = {name: {"load_balancing": own.in_turn} for name in ("a", "b")}
    times = [f"{10 * number}ms" for number in range(4)]
    ended = Run(services, recorded(*times), policies=policies).to(1000)
    # a-0 a-1 a-0 a-1 in turn, each with a cursor of its own for b
    chosen = [span.endpoint for span in sorted(ended.spans("a>b"), key=lambda s: s.start)]
    assert chosen == ["b-v1-0", "b-v1-0", "b-v1-1", "b-v1-1"]


# --- What a user may get wrong ----------------------------------------------------------------


def test_wrong_parameters_are_named_with_file_and_line():
    with pytest.raises(ms.ConfigError) as error:

        @ms.policy.load_balancer
        def short(hosts, members):
            return 0

    assert "test_custom.py" in str(error.value)
    assert "(hosts, members)" in str(error.value)
    assert "(hosts, members, request, memory, now_ns, rng)" in str(error.value)


@pytest.mark.skipif(not JIT_ENABLED, reason="nothing is compiled with JIT off")
def test_what_cannot_be_compiled_is_one_error_that_names_the_line():
    @ms.policy.load_balancer
    def wishful(hosts, members, request, memory, now_ns, rng):
        first = members[0]
        return hosts["cpu_load"][first]

    with pytest.raises(ms.ConfigError) as error:
        _ = wishful.address
    (problem,) = error.value.problems
    assert problem.file == __file__
    assert problem.line == wishful.function.__code__.co_firstlineno + 3
    assert "wishful cannot be compiled" in problem.message
    assert "\n" not in problem.message


@pytest.mark.skipif(not JIT_ENABLED, reason="nothing is compiled with JIT off")
def test_a_function_that_allocates_cannot_be_compiled():
    @ms.policy.load_balancer
    def wasteful(hosts, members, request, memory, now_ns, rng):
        return len([member for member in members])

    with pytest.raises(ms.ConfigError, match="wasteful cannot be compiled"):
        _ = wasteful.address


def test_a_scenario_names_what_there_is():
    with pytest.raises(ms.ConfigError, match="no custom policy custom_policies:missing"):
        custom.find("custom_policies:missing", "load_balancer")
    with pytest.raises(ms.ConfigError, match="is of kind admission; allowed: load_balancer"):
        custom.find("custom_policies:every_other", "load_balancer")
    with pytest.raises(ms.ConfigError, match="nowhere_to_be_found"):
        custom.find("nowhere_to_be_found:f", "retry")


def test_custom_and_its_function_are_said_together():
    with pytest.raises(ms.ConfigError, match="said together"):
        run({"load_balancing": {"policy": "CUSTOM"}}, "0s")
