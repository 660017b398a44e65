"""The memory of one replication: every array of the kernel, behind one pointer.

Rule: only the kernel's owner creates and grows arrays; compiled handlers take the memory and
read and write rows of ``state.hosts`` and the like.

A tuple of forty arrays is three hundred machine words to pass at each call, and a type name of
twelve thousand characters to compile; the memory is therefore a type of its own.  Compiled
code sees one pointer to a table with, for each array, its address and shape; ``state.hosts``
is a load.  Nothing is reference-counted: the owner keeps the arrays alive while compiled code
runs.  With JIT off the same attribute access is plain Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import (
    NativeValue,
    intrinsic,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import make_array, populate_array

from meshsim.jit import JIT_ENABLED
from meshsim.kernel.indexing import RowsType
from meshsim.state.concurrency import GRADIENT_DTYPE, GRADIENT_RULE_DTYPE
from meshsim.state.exchange import ATTEMPT_DTYPE, CONNECTION_DTYPE, EXCHANGE_DTYPE
from meshsim.state.filters import (
    BUCKET_DTYPE,
    FAULT_COUNTS_DTYPE,
    FAULT_DTYPE,
    FILTER_DTYPE,
    INBOUND_DTYPE,
    LIMIT_COUNTS_DTYPE,
    LIMIT_DTYPE,
    MIRROR_DTYPE,
    QUOTA_COUNTS_DTYPE,
    QUOTA_DTYPE,
    QUOTA_WINDOW_DTYPE,
)
from meshsim.state.hash_set import HASH_NAME_DTYPE, HASH_SET_DTYPE
from meshsim.state.health import CLUSTER_HEALTH_DTYPE, HEALTH_RULE_DTYPE, HOST_HEALTH_DTYPE
from meshsim.state.kernel import (
    CALL_DTYPE,
    COUNTERS_DTYPE,
    EVENT_DTYPE,
    PROXY_DTYPE,
    TIMER_DTYPE,
    TRAFFIC_DTYPE,
)
from meshsim.state.load_report import (
    LOAD_REPORT_DTYPE,
    REPORT_RULE_DTYPE,
    REPORTED_CLUSTER_DTYPE,
    REPORTED_WEIGHT_DTYPE,
)
from meshsim.state.locality import (
    GROUPING_DTYPE,
    LOCALITY_CONFIG_DTYPE,
    LOCALITY_DTYPE,
    PRIORITY_DTYPE,
)
from meshsim.state.oracle import (
    ORACLE_CLUSTER_DTYPE,
    ORACLE_ENDPOINT_DTYPE,
    ORACLE_HOST_DTYPE,
)
from meshsim.state.prequal import (
    PREQUAL_POOL_DTYPE,
    PREQUAL_RULE_DTYPE,
    PREQUAL_SERVER_DTYPE,
    PROBE_DTYPE,
    PROBE_FLIGHT_DTYPE,
)
from meshsim.state.record import SERIES_DTYPE, SPAN_DTYPE, WINDOW_DTYPE
from meshsim.state.rows import CACHE_LINE_BYTES, aligned
from meshsim.state.server import (
    BULKHEAD_DTYPE,
    CACHE_DTYPE,
    CONTAINER_DTYPE,
    ENDPOINT_DTYPE,
    GRAY_DTYPE,
    NODE_DTYPE,
    STEP_DTYPE,
    TASK_DTYPE,
)
from meshsim.state.upstream import (
    CLUSTER_CONFIG_DTYPE,
    CLUSTER_DTYPE,
    HOST_DTYPE,
    ROUTE_DTYPE,
    SPLIT_DTYPE,
    TABLE_DTYPE,
)
from meshsim.state.workload import ARRIVAL_DTYPE, DISTRIBUTION_DTYPE, IMPAIRMENT_DTYPE

__all__ = ["FIELDS", "HANDLER", "KernelState", "Rows", "invoke", "prefetch", "prefetch_first"]

Rows = npt.NDArray[Any]

_I1 = np.dtype("i1")
_I4 = np.dtype("i4")
_I8 = np.dtype("i8")
_U8 = np.dtype("u8")

#: Every array: name -> (dtype, number of dimensions).
FIELDS: dict[str, tuple[np.dtype[Any], int]] = {
    # pools and the event queue: grown by the owner
    "events": (EVENT_DTYPE, 1),
    "upcoming": (EVENT_DTYPE, 1),
    "buckets": (EVENT_DTYPE, 2),
    "bucket_counts": (_I4, 1),
    "exchanges": (EXCHANGE_DTYPE, 1),
    "attempts": (ATTEMPT_DTYPE, 1),
    "tasks": (TASK_DTYPE, 1),
    "connections": (CONNECTION_DTYPE, 1),
    # what client proxies believe and are configured with
    "hosts": (HOST_DTYPE, 1),
    "members": (_I4, 1),
    "clusters": (CLUSTER_DTYPE, 1),
    "configs": (CLUSTER_CONFIG_DTYPE, 1),
    "table": (TABLE_DTYPE, 1),
    "hash_sets": (HASH_SET_DTYPE, 1),  # places for tables; these and below: none if nobody hashes
    "hash_names": (HASH_NAME_DTYPE, 1),  # by server
    "hash_letters": (np.dtype("u1"), 1),
    "health_rules": (HEALTH_RULE_DTYPE, 1),
    "host_health": (HOST_HEALTH_DTYPE, 1),
    "cluster_health": (CLUSTER_HEALTH_DTYPE, 1),
    "ejections": (_I8, 2),  # by [CLUSTER_HEALTH row, kind]: detected, then enforced
    "routes": (ROUTE_DTYPE, 1),
    "splits": (SPLIT_DTYPE, 1),
    "codes": (_I4, 1),
    "routes_by_traffic": (_I4, 1),  # [proxies.route_base + calls.route_start + traffic class]
    "hash_keys": (_U8, 1),
    "access_rows": (_I4, 1),  # [calls.route_start + traffic class]; empty without access rules
    "access_outcomes": (_I1, 2),  # ACCESS_* by [row, workload]
    "timers": (TIMER_DTYPE, 1),
    # filters: of routes, of proxies
    "filters": (FILTER_DTYPE, 1),
    "faults": (FAULT_DTYPE, 1),
    "fault_counts": (FAULT_COUNTS_DTYPE, 1),  # by proxy; none if nobody has a fault
    "limits": (LIMIT_DTYPE, 1),
    "limit_buckets": (_I4, 1),
    "limit_counts": (LIMIT_COUNTS_DTYPE, 1),  # by [proxy, direction]; none if nobody has a limit
    "token_buckets": (BUCKET_DTYPE, 1),
    # of limits per connection; none if there is no such limit
    "full_buckets": (BUCKET_DTYPE, 1),
    "connection_buckets": (BUCKET_DTYPE, 1),  # as many for each CONNECTION row
    "buckets_begun": (_I4, 1),  # by CONNECTION row: generation + 1 of who has them, or 0
    "inbound": (INBOUND_DTYPE, 1),
    "inbound_limits": (_I4, 1),  # LIMIT by [block of an INBOUND row, call, class]
    "mirrors": (MIRROR_DTYPE, 1),
    # global rate limits, and what their service counts; none if nobody has one
    "quotas": (QUOTA_DTYPE, 1),
    "windows_of_quotas": (_I4, 1),
    "quota_windows": (QUOTA_WINDOW_DTYPE, 1),
    "quota_counts": (QUOTA_COUNTS_DTYPE, 1),  # by proxy
    # adaptive concurrency of inbound proxies; none if nobody has it
    "gradient_rules": (GRADIENT_RULE_DTYPE, 1),
    "gradients": (GRADIENT_DTYPE, 1),  # by endpoint
    "gradient_bins": (_I4, 2),
    "memory": (np.dtype("f8"), 1),  # of custom policies, by CLUSTER row
    # requests of HIGH priority: their rows by those of DEFAULT, and back; empty if there are none
    "high_clusters": (_I4, 1),
    "high_hosts": (_I4, 1),
    # clusters whose members are grouped
    "locality_configs": (LOCALITY_CONFIG_DTYPE, 1),
    # by CLUSTER row: its GROUPING row, or the first lane of its subsets; none if nobody has lanes
    "lane_links": (_I4, 1),
    "groupings": (GROUPING_DTYPE, 1),
    "priorities": (PRIORITY_DTYPE, 1),
    "localities": (LOCALITY_DTYPE, 1),
    # clusters that pick by subset: a number of lanes, then the lanes
    "chains": (_I4, 1),
    # balancers that see the true queues of servers
    "oracle_hosts": (ORACLE_HOST_DTYPE, 1),
    "oracle_clusters": (ORACLE_CLUSTER_DTYPE, 1),
    "oracle_endpoints": (ORACLE_ENDPOINT_DTYPE, 1),
    "watchers": (_I4, 1),  # HOST rows by server
    "idle_streams": (_U8, 2),
    # weights by load reports
    "report_rules": (REPORT_RULE_DTYPE, 1),
    "load_reports": (LOAD_REPORT_DTYPE, 1),
    "reported_weights": (REPORTED_WEIGHT_DTYPE, 1),
    "reported_clusters": (REPORTED_CLUSTER_DTYPE, 1),
    # probes of servers
    "prequal_rules": (PREQUAL_RULE_DTYPE, 1),
    "prequal_links": (_I4, 1),  # PREQUAL_POOL by CLUSTER row, or NO_INDEX
    "prequal_pools": (PREQUAL_POOL_DTYPE, 1),
    "probes": (PROBE_DTYPE, 2),
    "probe_rifs": (_I4, 2),
    "probe_flights": (PROBE_FLIGHT_DTYPE, 2),
    "prequal_servers": (PREQUAL_SERVER_DTYPE, 2),
    "prequal_samples": (_I8, 2),
    # servers and proxies
    "endpoints": (ENDPOINT_DTYPE, 1),
    "queue_heads": (_I4, 2),  # first queued TASK by [endpoint, priority class], or NO_INDEX
    "queue_tails": (_I4, 2),
    "containers": (CONTAINER_DTYPE, 1),
    "nodes": (NODE_DTYPE, 1),
    "steps": (STEP_DTYPE, 1),
    "branches": (_I4, 1),
    "programs": (_I4, 2),  # first STEP by [workload, operation]
    "grays": (GRAY_DTYPE, 1),  # gray failures so far
    "gray_callers": (_I1, 2),  # whom they hit: by [GRAY, workload], and gateways last
    "bulkheads": (BULKHEAD_DTYPE, 1),
    "bulkhead_counts": (_I4, 1),  # of a replica, by workload
    "caches": (CACHE_DTYPE, 1),
    "popularity": (np.dtype("f8"), 1),  # cumulative, of the keys of a cache
    "cached_until_ns": (_I8, 1),  # by key of every cache of every endpoint; 0: not cached
    "proxies": (PROXY_DTYPE, 1),
    "worker_free_ns": (_I8, 1),
    # workload and network
    "calls": (CALL_DTYPE, 1),
    "traffic": (TRAFFIC_DTYPE, 1),
    "arrivals": (ARRIVAL_DTYPE, 1),
    "distributions": (DISTRIBUTION_DTYPE, 1),
    "values": (np.dtype("f8"), 1),  # numbers of distributions and arrival processes
    "wire": (_I4, 2),  # DISTRIBUTION by [zone, zone]; the last row is for one node
    "impairments": (IMPAIRMENT_DTYPE, 1),  # of wires; none while all are sound
    "arrival_streams": (_U8, 2),
    "pick_streams": (_U8, 2),
    # recording
    "windows": (WINDOW_DTYPE, 2),
    "window_histogram": (_I4, 3),
    "series": (SERIES_DTYPE, 2),
    "series_histogram": (_I4, 3),
    "traffic_flags": (_I8, 3),
    "edge_flags": (_I8, 3),
    "spans": (SPAN_DTYPE, 1),
    "counters": (COUNTERS_DTYPE, 1),
}

_NAMES = tuple(FIELDS)
#: Words of a table row: address, then the shape.
_ROW_WORDS = 4


class KernelState:
    """Arrays by name, as `FIELDS` declares them.

    Parameters
    ----------
    handlers : sequence
        By kind of event: addresses of compiled handlers, or with JIT off the functions.
    **arrays : ndarray
        One for each name of `FIELDS`; C-contiguous and of the declared dtype.

    Raises
    ------
    TypeError
        If a name is missing or unknown, or an array is not as declared.
    """

    def __init__(self, handlers: Sequence[Any], **arrays: Rows) -> None:
        if set(arrays) != set(FIELDS):
            raise TypeError(f"arrays do not match: {sorted(set(arrays) ^ set(FIELDS))}")
        self.handlers = handlers
        words = len(FIELDS) * _ROW_WORDS
        self._words = np.zeros(words + len(handlers), np.int64)
        if JIT_ENABLED:
            self._words[words:] = handlers
        self._table = self._words[:words].reshape(len(FIELDS), _ROW_WORDS)
        self.address = self._words.ctypes.data
        self.replace(**arrays)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def replace(self, **arrays: Rows) -> None:
        """Put other arrays in the place of those of the same names."""
        for name, rows in arrays.items():
            dtype, dimensions = FIELDS[name]
            if rows.dtype != dtype or rows.ndim != dimensions or not rows.flags.c_contiguous:
                raise TypeError(f"{name}: {rows.dtype}, {rows.ndim} dimensions; not as declared")
            placed = aligned(rows)
            row = self._table[_NAMES.index(name)]
            row[0] = placed.ctypes.data
            row[1 : 1 + dimensions] = placed.shape
            setattr(self, name, placed)


class _StateType(types.Type):
    """The type of `KernelState` in compiled code."""

    def __init__(self) -> None:
        super().__init__(name="KernelState")


_STATE = _StateType()
_ARRAYS = {
    name: RowsType(numba.from_dtype(dtype), dimensions, "C")
    for name, (dtype, dimensions) in FIELDS.items()
}


@typeof_impl.register(KernelState)
def _typeof(value: KernelState, context: Any) -> _StateType:
    return _STATE


@register_model(_StateType)
class _StateModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, ir.IntType(64).as_pointer())


@unbox(_StateType)
def _unbox(typ: Any, value: Any, context: Any) -> NativeValue:
    address = context.pyapi.object_getattr_string(value, "address")
    number = context.pyapi.long_as_longlong(address)
    context.pyapi.decref(address)
    pointer = context.builder.inttoptr(number, ir.IntType(64).as_pointer())
    return NativeValue(
        pointer, is_error=cgutils.is_not_null(context.builder, context.pyapi.err_occurred())
    )


@infer_getattr
class _StateAttributes(AttributeTemplate):
    key = _StateType

    def generic_resolve(self, typ: Any, name: str) -> Any:
        return _ARRAYS.get(name)


@lower_getattr_generic(_StateType)
def _lower(context: Any, builder: Any, typ: Any, value: Any, name: str) -> Any:
    """Load address and shape; the owner changes them only while no compiled code runs."""
    array_type = _ARRAYS[name]
    row = _NAMES.index(name) * _ROW_WORDS

    def word(number: int) -> Any:
        slot = builder.gep(value, [ir.IntType(64)(row + number)])
        loaded = builder.load(slot)
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        return loaded

    array = make_array(array_type)(context, builder)
    item_bytes = context.get_constant(types.intp, FIELDS[name][0].itemsize)
    shape = [word(1 + axis) for axis in range(array_type.ndim)]
    strides = [item_bytes]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    data = builder.inttoptr(word(0), context.get_data_type(array_type.dtype).as_pointer())
    populate_array(
        array, data=data, shape=shape, strides=strides, itemsize=item_bytes, meminfo=None
    )
    return array._getvalue()


#: Signature of a handler: (state, row, generation) -> follow-up.
HANDLER = types.int64(_STATE, types.int64, types.int64)


@intrinsic
def _invoke(typing_context: Any, state: Any, kind: Any, row: Any, generation: Any) -> Any:
    """Call handler number `kind` through the table behind the memory."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number, index, stamp = arguments
        word = ir.IntType(64)
        slot = builder.add(word(len(FIELDS) * _ROW_WORDS), number)
        address = builder.load(builder.gep(pointer, [slot]))
        convention = context.call_conv
        function = convention.get_function_type(HANDLER.return_type, HANDLER.args)
        status, follow_up = convention.call_function(
            builder,
            builder.inttoptr(address, function.as_pointer()),
            HANDLER.return_type,
            HANDLER.args,
            [pointer, index, stamp],
        )
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return follow_up

    return types.int64(_STATE, types.int64, types.int64, types.int64), codegen


def _invoke_interpreted(state: KernelState, kind: int, row: int, generation: int) -> int:
    follow_up: int = state.handlers[kind](state, row, generation)
    return follow_up


#: Call the handler of `kind`: (state, kind, row, generation) -> follow-up.
invoke: Any = _invoke if JIT_ENABLED else _invoke_interpreted


def _prefetcher(lines: int) -> Any:
    """Return an intrinsic that asks for the first cache lines of a row, without waiting."""

    @intrinsic
    def ask(typing_context: Any, rows: Any, row: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = make_array(signature.args[0])(context, builder, value=arguments[0])
            byte = ir.IntType(8)
            place = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte.as_pointer())
            flag = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), flag, flag, flag])
            function = builder.module.declare_intrinsic("llvm.prefetch", [byte.as_pointer()], kind)
            for line in range(lines):
                offset = ir.IntType(64)(line * CACHE_LINE_BYTES)
                builder.call(function, [builder.gep(place, [offset]), flag(0), flag(3), flag(1)])
            return context.get_dummy_value()

        return types.none(rows, types.int64), codegen

    return ask


def _prefetch_interpreted(rows: Rows, row: int) -> None:
    """Do nothing: Python has no cache to warm."""


#: Warm the cache for a row that is about to be used: (rows, row) -> None.
prefetch: Any = _prefetcher(2) if JIT_ENABLED else _prefetch_interpreted
#: The same for what is needed of a row that may be used.
prefetch_first: Any = _prefetcher(1) if JIT_ENABLED else _prefetch_interpreted
