"""The declarative model of a mesh: what a person writes, immutable and without defaults filled.

Rule: this file says what *can* be said; a mesh profile (`meshsim.meshes`) fills what was left
unsaid, and `meshsim.topology.compile` turns the filled model into state arrays.  A policy
field that is `None` was not said.  Field names are Envoy's; times are `int` nanoseconds,
written as ``"14ms"`` in YAML; sizes are `int` bytes, written as ``"2KiB"`` or a number.
Scalars and distributions are in `meshsim.topology.base`, traffic in `meshsim.topology.traffic`,
policies in `meshsim.topology.policies`; all are exported here too.

The model knows no file positions: `meshsim.topology.load` maps a field path to file, line and
column, and keeps them in `Topology.provenance`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from meshsim.topology.access.model import Access
from meshsim.topology.base import (
    Boolean,
    Constant,
    Distribution,
    Duration,
    Empirical,
    Exponential,
    Gamma,
    Hyperexponential,
    Integer,
    Lognormal,
    Model,
    Number,
    ParetoBounded,
    Phase,
    Probability,
    Rate,
    Size,
    one_of,
)
from meshsim.topology.faults import TimedFault
from meshsim.topology.filters import (
    AdaptiveConcurrency,
    ConcurrencyLimitParams,
    Fault,
    FaultAbort,
    FaultDelay,
    GlobalRateLimit,
    LocalRateLimit,
    MinRttCalcParams,
    Mirror,
    QuotaDescriptor,
    RateLimitDescriptor,
    Redirect,
    ResponseRateLimit,
    TokenBucket,
)
from meshsim.topology.health import FailureAccrual, HealthCheck, OutlierDetection, SlowStart
from meshsim.topology.hedging import HedgePolicy
from meshsim.topology.locality import LocalityEndpoints, LocalityLoadBalancing, ZoneAware
from meshsim.topology.policies import (
    RESET_MAX_NS,
    CircuitBreakers,
    ClusterPolicy,
    ConnectionPool,
    LoadBalancing,
    LoadBalancingPolicy,
    RetryBudget,
    RetryOn,
    RetryPolicy,
    RetryThrottling,
    Route,
    RouteMatch,
    ServicePolicy,
    StringMatch,
    Subset,
    Thresholds,
    WeightedCluster,
)
from meshsim.topology.releases import RELEASE_PATTERN
from meshsim.topology.subsets import SubsetConfig, SubsetSelector
from meshsim.topology.traffic import (
    Arrivals,
    Batch,
    ClosedLoop,
    Diurnal,
    ModulatedPhase,
    ModulatedPoisson,
    Piecewise,
    Poisson,
    RatePoint,
    Recorded,
    Renewal,
    TrafficClass,
)
from meshsim.units import NS_PER_S

__all__ = [
    "Access",
    "AdaptiveConcurrency",
    "Arrivals",
    "Autoscale",
    "Batch",
    "Bulkhead",
    "Cache",
    "Call",
    "CircuitBreakers",
    "ClosedLoop",
    "ClusterPolicy",
    "ColdStart",
    "ConcurrencyLimitParams",
    "ConnectionPool",
    "Constant",
    "Deadline",
    "Discipline",
    "Distribution",
    "Diurnal",
    "Duration",
    "Empirical",
    "Exponential",
    "FailureAccrual",
    "Fault",
    "FaultAbort",
    "FaultDelay",
    "Gamma",
    "GlobalRateLimit",
    "HealthCheck",
    "HedgePolicy",
    "Hyperexponential",
    "Latency",
    "Link",
    "LoadBalancing",
    "LoadBalancingPolicy",
    "LocalRateLimit",
    "LocalityEndpoints",
    "LocalityLoadBalancing",
    "Lognormal",
    "MinRttCalcParams",
    "Mirror",
    "Model",
    "ModulatedPhase",
    "ModulatedPoisson",
    "Network",
    "Node",
    "OutlierDetection",
    "ParetoBounded",
    "Phase",
    "Piecewise",
    "Poisson",
    "Probability",
    "Provenance",
    "QuotaDescriptor",
    "Rate",
    "RateLimitDescriptor",
    "RatePoint",
    "Recorded",
    "Redirect",
    "Renewal",
    "ResponseRateLimit",
    "RetryBudget",
    "RetryOn",
    "RetryPolicy",
    "RetryThrottling",
    "Route",
    "RouteMatch",
    "Service",
    "ServicePolicy",
    "Size",
    "SlowStart",
    "Step",
    "StringMatch",
    "Subset",
    "SubsetConfig",
    "SubsetSelector",
    "Thresholds",
    "TimedFault",
    "TokenBucket",
    "Topology",
    "TrafficClass",
    "WeightedCluster",
    "Workload",
    "ZoneAware",
]

# --- Network and nodes ----------------------------------------------------------------------


class Link(Model):
    """One-way latency between two zones, overriding the table of `Latency`, in both directions."""

    zones: tuple[str, str]
    latency: Distribution


class Latency(Model):
    """One-way wire latency by how far apart two endpoints are.

    The defaults are chosen, not measured: round numbers of the usual order, which make a round
    trip of 40 us on a node, 0.25 ms within a zone, 1 ms between zones and 60 ms between regions.
    Measure your own, or take your cloud's (docs.aws.amazon.com, CloudWatch, "Infrastructure
    Performance" publishes medians within and between AWS zones).
    """

    same_node: Distribution = Distribution.model_validate("20us")
    same_zone: Distribution = Distribution.model_validate("125us")
    same_region: Distribution = Distribution.model_validate("500us")
    cross_region: Distribution = Distribution.model_validate("30ms")


class Network(Model):
    """Wire latencies; a retry, a request and a response each pay them once."""

    latency: Latency = Latency()
    links: tuple[Link, ...] = ()


class Node(Model):
    """A machine.  `cores` is what its containers share; None means more than they can use."""

    zone: str = "default"
    region: str = "default"
    cores: Number | None = Field(default=None, gt=0)


# --- Services -------------------------------------------------------------------------------

Discipline = Literal["FCFS", "PROCESSOR_SHARING", "PRIORITY", "PREEMPTIVE_PRIORITY"]


class Call(Model):
    """A request to another service, as the caller's code makes it.  Short form: its name.

    `headers` are added to those of the traffic class, which propagate along the call path.
    """

    service: str
    operation: str = "default"
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = Field(default_factory=dict)
    request_bytes: Size = 500
    response_bytes: Size = 2000

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"service": value} if isinstance(value, str) else value


class Cache(Model):
    """A look-aside cache of a replica: what is not in it is found by the steps of `miss`.

    A share `cacheable` of the requests ask for one of `keys` keys; the k-th most popular one has
    weight k ** -zipf.  The others miss always, and are not kept.  A miss that ended well is kept
    for `ttl`, or until the replica is flushed or dies; one that failed is not kept.  Looking up
    takes no time: write a compute step before it.  Each replica has a cache of its own; it begins
    with a share `filled` of the keys, the most popular ones, but one that is added or comes back
    begins empty.  A cache that replicas share is a service of one replica.
    """

    keys: Integer = Field(ge=1, le=10_000_000)
    cacheable: Probability = 1.0
    zipf: Number = Field(default=0.0, ge=0, le=10)
    ttl: Duration | None = None
    filled: Probability = 0.0
    miss: tuple[Step, ...] = Field(min_length=1)


class Step(Model):
    """One step of an operation: exactly one of compute, sleep, call, parallel, cache.

    compute uses a core; sleep waits without one; parallel runs its branches (each a sequence)
    at once and continues when all have ended; cache runs its `miss` unless it has what is asked
    for.  A failed call (status >= 500) ends the operation with status 500 unless `optional` is
    true, in which case it goes on, or the call has a `fallback`: steps that run in its place,
    after which it goes on as if the call had succeeded.  Without any step that is a static answer.
    """

    compute: Distribution | None = None
    sleep: Distribution | None = None
    call: Call | None = None
    parallel: tuple[tuple[Step, ...], ...] | None = None
    cache: Cache | None = None
    probability: Probability = 1.0
    optional: Boolean = False
    fallback: tuple[Step, ...] | None = Field(
        default=None, description="instead of a call that has failed; []: a static answer"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Step:
        one_of(self, ("compute", "sleep", "call", "parallel", "cache"))
        if self.fallback is not None and (self.call is None or self.optional):
            raise ValueError("a fallback is that of a call which is not optional")
        return self

    @property
    def branches(self) -> tuple[tuple[Step, ...], ...]:
        """The sequences within it: those that run at once, or the miss of its cache."""
        return (self.cache.miss,) if self.cache is not None else self.parallel or ()

    @property
    def sequences(self) -> tuple[tuple[Step, ...], ...]:
        """Its `branches`, and its fallback."""
        return (*self.branches, self.fallback or ())


class Autoscale(Model):
    """A HorizontalPodAutoscaler of one workload; utilisation is a share of its `cpu`.

    `start_up` is how long a new replica takes until proxies know it.
    """

    target_utilization: Number = Field(default=0.8, gt=0, le=10)
    min_replicas: Integer = Field(default=1, ge=1, le=10_000)
    max_replicas: Integer = Field(ge=1, le=10_000)
    sync_period: Duration = 15 * NS_PER_S
    tolerance: Number = Field(default=0.1, ge=0, le=1)
    stabilization_up: Duration = 0
    stabilization_down: Duration = 300 * NS_PER_S
    start_up: Duration = 0


class ColdStart(Model):
    """A replica that has just started computes slowly: caches, compilers and pools are cold.

    Its speed goes from `initial_speed` (a share of its own) to 1 over `duration`, evenly or
    exponentially (95 % of the way in that time).  This happens to replicas that are added, and to
    those that come back from death; the replicas that a run begins with are warm.
    """

    duration: Duration = Field(gt=0)
    initial_speed: Number = Field(default=0.1, gt=0, le=1)
    shape: Literal["LINEAR", "EXPONENTIAL"] = "LINEAR"


class Bulkhead(Model):
    """How many calls of one service a replica may have under way at once, and wait to make."""

    max_concurrent_calls: Integer = Field(default=25, ge=1, le=2**31 - 1)
    max_wait_duration: Duration = 0
    max_waiting_calls: Integer | None = Field(default=None, ge=0, le=2**31 - 1)


class Deadline(Model):
    """What a workload does about the deadlines of its requests.

    One that propagates them passes the deadline of a request, which its caller's timeouts make,
    on with every call that it makes for it: each next timeout is what is left, if that is less,
    and a call that is too late is not sent (504, UT).  Nothing waits in its queue beyond its
    deadline, unless `on_timeout` is to continue.
    """

    propagate: Boolean = False


class Workload(Model):
    """A versioned set of equal replicas of one service.

    Parameters worth a word: `concurrency` is the number of workers of one replica;
    `queue_limit` how many requests may wait for a worker (beyond it: 503, UO is not ours to
    claim, the server answers itself); `hold_worker` whether a request keeps its worker while
    it waits for a call (a thread per request) or gives it back (an event loop);
    `retry_after` what the answer of a full queue, or of one left for lack of patience, says in
    ``retry-after``, in whole seconds;
    `on_timeout` what ends at the server when the caller gives up; `cpu` the container's CPU
    limit in cores; `speed` scales compute (1 is nominal, 0 is paused); `concurrency_penalty`
    slows compute by 1 + penalty * (running - 1) (contention between workers); `steps` is what a
    request to the operation "default" does, `operations` what requests to others do.
    """

    labels: dict[str, str] = Field(default_factory=dict)
    replicas: Integer = Field(default=1, ge=0, le=1_000_000)
    concurrency: Integer = Field(default=64, ge=1, le=1_000_000)
    queue_limit: Integer | None = Field(default=None, ge=0)
    discipline: Discipline = "FCFS"
    patience: Distribution | None = None
    retry_after: Duration | None = Field(default=None, ge=0, le=RESET_MAX_NS)
    hold_worker: Boolean = True
    on_timeout: Literal["cancel_queued", "cancel_work", "continue"] = "cancel_queued"
    deadline: Deadline = Deadline()
    bulkheads: dict[str, Bulkhead] = Field(
        default_factory=dict, description="by called service; of each replica its own"
    )
    cpu: Number | None = Field(default=None, gt=0)
    speed: Number = Field(default=1.0, ge=0, le=1000)
    concurrency_penalty: Number = Field(default=0.0, ge=0, le=100)
    error_rate: Probability = 0.0
    autoscale: Autoscale | None = None
    cold_start: ColdStart | None = None
    nodes: tuple[str, ...] = ()
    meshed: Boolean = True
    steps: tuple[Step, ...] = ()
    operations: dict[str, tuple[Step, ...]] = Field(default_factory=dict)


class Service(Model):
    """A logical name that callers use, and the workloads behind it."""

    port: Integer = Field(default=80, ge=1, le=65535)
    protocol: Literal["http"] = "http"
    workloads: dict[str, Workload] = Field(min_length=1)


# --- The whole ------------------------------------------------------------------------------


class Provenance(Model):
    """Where a value comes from: a place in a file, or a named default."""

    file: str = ""
    line: int = 0
    column: int = 0
    field: str = ""
    default: str = ""

    def __str__(self) -> str:
        if self.default:
            return self.default
        position = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return f"{position} {self.field}".strip()


class Topology(Model):
    """A mesh, its traffic and what happens to it: one scenario.

    Two topologies are equal if their declared content is; provenance and notices do not count.
    """

    name: str
    question: str = ""
    references: tuple[str, ...] = ()
    mesh: str = "istio-sidecar"
    envoy_release: str | None = Field(
        default=None,
        pattern=RELEASE_PATTERN,
        description="of the proxies, e.g. 1.36: names of counters and defaults go by it",
    )
    network: Network = Network()
    nodes: dict[str, Node] = Field(default_factory=dict)
    services: dict[str, Service] = Field(min_length=1)
    traffic: dict[str, TrafficClass] = Field(default_factory=dict)
    policies: dict[str, ServicePolicy] = Field(default_factory=dict)
    access: Access = Access()
    faults: tuple[TimedFault, ...] = ()
    #: Mesh family whose configuration the policies were read from ("istio", ...); empty if the
    #: scenario states them itself.  A client without that mesh's proxy ignores them.
    policy_origin: str = ""
    provenance: dict[str, Provenance] = Field(default_factory=dict, exclude=True, repr=False)
    #: What was read and not used: one sentence each, with its place.
    notices: tuple[str, ...] = Field(default=(), exclude=True, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
