"""How a user's function is called: by the address of an entry with a fixed signature.

Rule: `KINDS` lists the kinds of functions.  An *entry* wraps the user's function; it takes whole
arrays and ranges, and hands on slices.  `call_*` call an entry by its address from compiled
code; with JIT off an address counts in a list of Python functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from meshsim.jit import JIT_ENABLED
from meshsim.state.upstream import CLUSTER_DTYPE, HOST_DTYPE

__all__ = [
    "INTERPRETED",
    "KINDS",
    "NO_FUNCTION",
    "Kind",
    "Outcome",
    "Request",
    "call_admit",
    "call_learn",
    "call_pick",
    "call_retry",
]

#: Address of no function.
NO_FUNCTION = 0


class Request(NamedTuple):
    """What a load balancer knows of a request.

    Parameters
    ----------
    hash_key : uint64
        Of the header or source that the cluster hashes by; `NO_HASH_KEY` if there is none.
    reselection : int
        0 for the first pick of a try; a for the a-th because the host was tried before.
    """

    hash_key: int
    reselection: int


class Outcome(NamedTuple):
    """How a try ended.

    Parameters
    ----------
    status : int
        Of the response; 0 if there was none.
    reset : int
        `RESET_*` of `meshsim.state.codes`; `RESET_NONE` if there was a response.
    retry_number : int
        1 if this would be the request's first retry.
    """

    status: int
    reset: int
    retry_number: int


_I8 = types.int64
_HOSTS = types.Array(numba.from_dtype(HOST_DTYPE), 1, "C")
_CLUSTERS = types.Array(numba.from_dtype(CLUSTER_DTYPE), 1, "C")
_MEMBERS = types.Array(types.int32, 1, "C")
_MEMORY = types.Array(types.float64, 1, "C")
_STREAM = types.Array(types.uint64, 1, "C")
_REQUEST = types.NamedTuple((types.uint64, _I8), Request)
_OUTCOME = types.NamedUniTuple(_I8, 3, Outcome)


def _pick_entry(function: Any) -> Any:
    def entry(hosts, members, start, count, key, reselection, memory, first, size, now_ns, rng):  # type: ignore[no-untyped-def]
        mine = members[start : start + count]
        request = Request(key, reselection)
        return function(hosts, mine, request, memory[first : first + size], now_ns, rng)

    return entry


def _learn_entry(function: Any) -> Any:
    def entry(hosts, host, failed, rtt_ns, memory, first, size, now_ns):  # type: ignore[no-untyped-def]
        function(hosts, host, failed, rtt_ns, memory[first : first + size], now_ns)
        return 0

    return entry


def _retry_entry(function: Any) -> Any:
    def entry(status, reset, retry_number, memory, first, size, now_ns, rng):  # type: ignore[no-untyped-def]
        outcome = Outcome(status, reset, retry_number)
        return function(outcome, memory[first : first + size], now_ns, rng)

    return entry


def _admit_entry(function: Any) -> Any:
    def entry(clusters, cluster, memory, first, size, now_ns, rng):  # type: ignore[no-untyped-def]
        return function(clusters[cluster], memory[first : first + size], now_ns, rng)

    return entry


class Kind(NamedTuple):
    """One kind of policy.

    Parameters
    ----------
    parameters : tuple of str
        Of the user's function, as the documentation names them.
    takes : tuple
        Their types.
    entry : callable
        Function -> the function that is called by address: ranges instead of slices.
    called : Signature
        Of the entry.
    """

    parameters: tuple[str, ...]
    takes: tuple[Any, ...]
    entry: Callable[[Any], Any]
    called: Any


_RANGE = (_MEMORY, _I8, _I8)
KINDS = {
    "load_balancer": Kind(
        ("hosts", "members", "request", "memory", "now_ns", "rng"),
        (_HOSTS, _MEMBERS, _REQUEST, _MEMORY, _I8, _STREAM),
        _pick_entry,
        _I8(_HOSTS, _MEMBERS, _I8, _I8, types.uint64, _I8, *_RANGE, _I8, _STREAM),
    ),
    "on_response": Kind(
        ("hosts", "host", "failed", "rtt_ns", "memory", "now_ns"),
        (_HOSTS, _I8, types.boolean, _I8, _MEMORY, _I8),
        _learn_entry,
        _I8(_HOSTS, _I8, types.boolean, _I8, *_RANGE, _I8),
    ),
    "retry": Kind(
        ("outcome", "memory", "now_ns", "rng"),
        (_OUTCOME, _MEMORY, _I8, _STREAM),
        _retry_entry,
        _I8(_I8, _I8, _I8, *_RANGE, _I8, _STREAM),
    ),
    "admission": Kind(
        ("cluster", "memory", "now_ns", "rng"),
        (_CLUSTERS.dtype, _MEMORY, _I8, _STREAM),
        _admit_entry,
        _I8(_CLUSTERS, _I8, *_RANGE, _I8, _STREAM),
    ),
}


INTERPRETED: list[Any] = []


def _typed(kind: str, given: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return signature and code of a call by address: (address, *arguments of the entry)."""
    called = KINDS[kind].called
    # The kernel's rows have a type of their own and the same layout; numbers are cast.
    passed = [
        have if isinstance(want, types.Array) else want
        for have, want in zip(given[1:], called.args, strict=True)
    ]

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        convention = context.call_conv
        function = convention.get_function_type(called.return_type, called.args)
        status, result = convention.call_function(
            builder,
            builder.inttoptr(arguments[0], function.as_pointer()),
            called.return_type,
            called.args,
            arguments[1:],
        )
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return result

    return called.return_type(_I8, *passed), codegen


# An intrinsic names its parameters; those between address and memory differ.


@intrinsic
def _call_pick(  # type: ignore[no-untyped-def]
    context, address, hosts, members, start, count, key, reselection, memory, first, size, now, rng
):
    entry = hosts, members, start, count, key, reselection, memory, first, size, now, rng
    return _typed("load_balancer", (address, *entry))


@intrinsic
def _call_learn(  # type: ignore[no-untyped-def]
    context, address, hosts, host, failed, rtt_ns, memory, first, size, now
):
    entry = hosts, host, failed, rtt_ns, memory, first, size, now
    return _typed("on_response", (address, *entry))


@intrinsic
def _call_retry(  # type: ignore[no-untyped-def]
    context, address, status, reset, retry_number, memory, first, size, now, rng
):
    entry = status, reset, retry_number, memory, first, size, now, rng
    return _typed("retry", (address, *entry))


@intrinsic
def _call_admit(  # type: ignore[no-untyped-def]
    context, address, clusters, cluster, memory, first, size, now, rng
):
    return _typed("admission", (address, clusters, cluster, memory, first, size, now, rng))


def _call_interpreted(address: int, *given: Any) -> Any:
    """Call a Python function; with JIT off an address counts in `INTERPRETED`, from 1."""
    return INTERPRETED[address - 1](*given)


call_pick: Any = _call_pick if JIT_ENABLED else _call_interpreted
call_learn: Any = _call_learn if JIT_ENABLED else _call_interpreted
call_retry: Any = _call_retry if JIT_ENABLED else _call_interpreted
call_admit: Any = _call_admit if JIT_ENABLED else _call_interpreted
