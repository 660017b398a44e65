"""The declarative model of a mesh: what a person writes, immutable and without defaults filled.

Rule: this file says what *can* be said; a mesh profile (`meshsim.meshes`) fills what was left
unsaid, and `meshsim.topology.compile` turns the filled model into state arrays.  A policy
field that is `None` was not said.  Field names are Envoy's; times are `int` nanoseconds,
written as ``"14ms"`` in YAML; sizes are `int` bytes, written as ``"2KiB"`` or a number.

The model knows no file positions: `meshsim.topology.load` maps a field path to file, line and
column, and keeps them in `Topology.provenance`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from meshsim.units import format_duration, format_size, parse_duration, parse_size

# --- Scalars --------------------------------------------------------------------------------


def _read_duration(value: Any) -> int:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value == 0:
            return 0
        raise ValueError("a duration needs a unit: write e.g. 14ms, 1.5s, 1h30m")
    raise ValueError("not a duration: write e.g. 14ms, 1.5s, 1h30m")


def _read_size(value: Any) -> int:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("not a size: write e.g. 250, 2kB, 64KiB")


#: A duration [ns]; in YAML a string with a unit.  From Python pass the string as well.
Duration = Annotated[
    int,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": r"^([0-9.]+(ns|us|ms|s|m|h))+$|^0$", "examples": ["14ms"]}
    ),
]
#: A size [bytes].
Size = Annotated[
    int,
    BeforeValidator(_read_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["2KiB", 250]}),
]
Probability = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1e9)]


class Model(BaseModel):
    """Base of every element: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


# --- Distributions --------------------------------------------------------------------------


class Constant(Model):
    """Always `value`.  Short form in YAML: the bare duration."""

    value: Duration


class Exponential(Model):
    """Exponential with mean `mean`.  Short form: ``{exponential: 14ms}``."""

    mean: Duration = Field(description="> 0")


class Lognormal(Model):
    """Lognormal, given by its mean and its 99th percentile (mean < p99 < 14.97 mean).

    sigma solves sigma * z99 - sigma**2 / 2 = ln(p99 / mean), the smaller root.
    """

    mean: Duration
    p99: Duration


class Gamma(Model):
    """Gamma with mean `mean` and shape `shape` > 0 (squared coefficient of variation 1/shape)."""

    mean: Duration
    shape: float = Field(gt=0, le=1e6)


class ParetoBounded(Model):
    """Bounded Pareto on [low, high] with tail index `shape`."""

    low: Duration
    high: Duration
    shape: float = Field(gt=0, le=100)


class Phase(Model):
    """One exponential branch of a hyperexponential."""

    probability: Probability
    mean: Duration


class Hyperexponential(Model):
    """One of several exponentials; the probabilities sum to 1."""

    phases: tuple[Phase, ...] = Field(min_length=1)


class Empirical(Model):
    """Drawn with replacement from measured values (at least one)."""

    values: tuple[Duration, ...] = Field(min_length=1)


class Distribution(Model):
    """A distribution of a duration: exactly one of its fields is set.

    In YAML a bare duration is a constant, and a single-key mapping names the family:
    ``{exponential: 14ms}``, ``{lognormal: {mean: 5ms, p99: 20ms}}``.
    """

    constant: Constant | None = None
    exponential: Exponential | None = None
    lognormal: Lognormal | None = None
    gamma: Gamma | None = None
    pareto_bounded: ParetoBounded | None = None
    hyperexponential: Hyperexponential | None = None
    empirical: Empirical | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return {"constant": {"value": value}}
        if isinstance(value, dict):
            value = dict(value)
            for family, field in (("constant", "value"), ("exponential", "mean")):
                if isinstance(value.get(family), (str, int)):
                    value[family] = {field: value[family]}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Distribution:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def family(self) -> str:
        """Name of the one field that is set."""
        return next(iter(self.model_fields_set))


# --- Network and nodes ----------------------------------------------------------------------


class Link(Model):
    """One-way latency between two zones, overriding the table of `Latency`, in both directions."""

    zones: tuple[str, str]
    latency: Distribution


class Latency(Model):
    """One-way wire latency by how far apart two endpoints are."""

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
    cores: float | None = Field(default=None, gt=0)


# --- Services -------------------------------------------------------------------------------

Discipline = Literal["FCFS", "PROCESSOR_SHARING", "PRIORITY", "PREEMPTIVE_PRIORITY"]


class Call(Model):
    """A request to another service, as the caller's code makes it."""

    service: str
    operation: str = "default"
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = {}
    request_bytes: Size = 500
    response_bytes: Size = 2000

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"service": value} if isinstance(value, str) else value


class Step(Model):
    """One step of an operation: exactly one of compute, sleep, call, parallel.

    compute uses a core; sleep waits without one; parallel runs its branches (each a sequence)
    at once and continues when all have ended.  A failed call (status >= 500) ends the
    operation with status 500 unless `optional` is true, in which case it goes on.
    """

    compute: Distribution | None = None
    sleep: Distribution | None = None
    call: Call | None = None
    parallel: tuple[tuple[Step, ...], ...] | None = None
    probability: Probability = 1.0
    optional: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> Step:
        kinds = [
            name
            for name in ("compute", "sleep", "call", "parallel")
            if getattr(self, name) is not None
        ]
        if len(kinds) != 1:
            raise ValueError("exactly one of compute, sleep, call, parallel")
        return self


class Workload(Model):
    """A versioned set of equal replicas of one service.

    Parameters worth a word: `concurrency` is the number of workers of one replica;
    `queue_limit` how many requests may wait for a worker (beyond it: 503, UO is not ours to
    claim, the server answers itself); `hold_worker` whether a request keeps its worker while
    it waits for a call (a thread per request) or gives it back (an event loop);
    `on_timeout` what ends at the server when the caller gives up; `cpu` the container's CPU
    limit in cores; `speed` scales compute (1 is nominal, 0 is paused); `concurrency_penalty`
    slows compute by 1 + penalty * (running - 1) (contention between workers).
    """

    labels: dict[str, str] = {}
    replicas: int = Field(default=1, ge=0, le=1_000_000)
    concurrency: int = Field(default=64, ge=1, le=1_000_000)
    queue_limit: int | None = Field(default=None, ge=0)
    discipline: Discipline = "FCFS"
    patience: Distribution | None = None
    hold_worker: bool = True
    on_timeout: Literal["cancel_queued", "cancel_work", "continue"] = "cancel_queued"
    cpu: float | None = Field(default=None, gt=0)
    speed: float = Field(default=1.0, ge=0, le=1000)
    concurrency_penalty: float = Field(default=0.0, ge=0, le=100)
    error_rate: Probability = 0.0
    nodes: tuple[str, ...] = ()
    meshed: bool = True
    steps: tuple[Step, ...] = ()
    operations: dict[str, tuple[Step, ...]] = {}


class Service(Model):
    """A logical name that callers use, and the workloads behind it."""

    port: int = Field(default=80, ge=1, le=65535)
    protocol: Literal["http"] = "http"
    workloads: dict[str, Workload] = Field(min_length=1)


# --- Policies (Envoy's vocabulary) ----------------------------------------------------------

LoadBalancingPolicy = Literal[
    "ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV", "PEAK_EWMA"
]


class StringMatch(Model):
    """Exactly one of exact, prefix, regex (RE2 full match), present."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None
    present: bool | None = None
    invert: bool = False

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"exact": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> StringMatch:
        if sum(item is not None for item in (self.exact, self.prefix, self.regex, self.present)) != 1:
            raise ValueError("exactly one of exact, prefix, regex, present")
        return self


class RouteMatch(Model):
    """All conditions must hold; an empty match holds for every request.

    `ignore_case` applies to exact and prefix of `path`; `source_labels` restricts the match to
    callers whose workload carries these labels.
    """

    path: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = {}
    ignore_case: bool = False
    source_labels: dict[str, str] = {}


class WeightedCluster(Model):
    """One destination of a split: a service (default: the routed one) and perhaps a subset."""

    service: str | None = None
    subset: str | None = None
    weight: int = Field(default=1, ge=0, le=2**32 - 1)


RetryOn = Literal[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "retriable-status-codes",
    "unavailable",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "envoy-ratelimited",
]


class RetryPolicy(Model):
    """When and how often a failed attempt is followed by another."""

    num_retries: int | None = Field(default=None, ge=0, le=1000)
    retry_on: tuple[RetryOn, ...] | None = None
    retriable_status_codes: tuple[int, ...] | None = None
    per_try_timeout: Duration | None = None
    base_interval: Duration | None = None
    max_interval: Duration | None = None
    previous_hosts: bool | None = None
    host_selection_retry_max_attempts: int | None = Field(default=None, ge=1, le=100)


class Route(Model):
    """One rule of a service's route table; rules are tried in order, the first match wins."""

    name: str = ""
    match: tuple[RouteMatch, ...] = ()
    split: tuple[WeightedCluster, ...] = ()
    direct_response: int | None = Field(default=None, ge=200, le=599)
    timeout: Duration | None = Field(default=None, description="covers all tries; 0 disables")
    retry: RetryPolicy | None = None


class LoadBalancing(Model):
    """Which host of a cluster the next request (or connection) goes to."""

    policy: LoadBalancingPolicy | None = None
    choice_count: int | None = Field(default=None, ge=2, le=1000)
    active_request_bias: float | None = Field(default=None, ge=0, le=100)
    selection_method: Literal["N_CHOICES", "FULL_SCAN"] | None = None
    minimum_ring_size: int | None = Field(default=None, ge=1, le=8_388_608)
    maximum_ring_size: int | None = Field(default=None, ge=1, le=8_388_608)
    table_size: int | None = Field(default=None, ge=2, le=5_000_011)
    hash_balance_factor: int | None = Field(default=None, ge=0, le=10_000)
    hash_header: str | None = None
    hash_source_ip: bool | None = None
    decay: Duration | None = None
    default_rtt: Duration | None = None
    weights: dict[str, int] | None = Field(
        default=None, description="endpoint weight by workload name, 1 to 128"
    )


class RetryBudget(Model):
    """Envoy's retry budget: concurrent retries as a share of active and pending requests."""

    budget_percent: float | None = Field(default=None, ge=0, le=100)
    min_retry_concurrency: int | None = Field(default=None, ge=0)


class CircuitBreakers(Model):
    """Envoy's concurrency limits, per client proxy and cluster."""

    max_connections: int | None = Field(default=None, ge=0, le=2**32 - 1)
    max_pending_requests: int | None = Field(default=None, ge=0, le=2**32 - 1)
    max_requests: int | None = Field(default=None, ge=0, le=2**32 - 1)
    max_retries: int | None = Field(default=None, ge=0, le=2**32 - 1)
    retry_budget: RetryBudget | None = None


class ConnectionPool(Model):
    """How a proxy keeps connections to one host."""

    connect_timeout: Duration | None = None
    idle_timeout: Duration | None = Field(default=None, description="0 disables")
    max_requests_per_connection: int | None = Field(default=None, ge=0, description="0: no limit")


class ClusterPolicy(Model):
    """Policies of one cluster (a service, or a subset of it)."""

    load_balancing: LoadBalancing | None = None
    circuit_breakers: CircuitBreakers | None = None
    connection_pool: ConnectionPool | None = None


class Subset(ClusterPolicy):
    """The endpoints of a service whose workload carries these labels, with own policies."""

    labels: dict[str, str]


class ServicePolicy(ClusterPolicy):
    """What client proxies do with requests to one service."""

    subsets: dict[str, Subset] = {}
    routes: tuple[Route, ...] = ()


# --- Traffic --------------------------------------------------------------------------------


class Poisson(Model):
    """Poisson arrivals at `rate` [1/s].  Short form: ``{poisson: 200}``."""

    rate: Rate


class Renewal(Model):
    """Independent intervals of any distribution."""

    interval: Distribution


class Batch(Model):
    """Poisson batches: `rate` [requests/s] in batches of geometric or fixed size of mean `size`."""

    rate: Rate
    size: float = Field(ge=1, le=1e6)
    size_distribution: Literal["fixed", "geometric"] = "fixed"


class ModulatedPhase(Model):
    """One phase of a Markov-modulated Poisson process: its rate and mean sojourn."""

    rate: Rate
    mean_sojourn: Duration


class ModulatedPoisson(Model):
    """MMPP: phases follow one another cyclically, sojourns exponential, Poisson within."""

    phases: tuple[ModulatedPhase, ...] = Field(min_length=2)


class RatePoint(Model):
    """Rate [1/s] at a time; linear in between, constant after the last."""

    at: Duration
    rate: Rate


class Piecewise(Model):
    """Poisson with a rate that is piecewise linear in time (two points at one time: a step)."""

    points: tuple[RatePoint, ...] = Field(min_length=1)


class Diurnal(Model):
    """Poisson with rate mean * (1 + amplitude * sin(2 pi (t + phase) / period))."""

    mean: Rate
    amplitude: float = Field(ge=0, le=1)
    period: Duration = 86_400_000_000_000
    phase: Duration = 0

    @model_validator(mode="before")
    @classmethod
    def _period_default(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = {"period": "24h", "phase": "0s", **value}
        return value


class Recorded(Model):
    """Arrival times as recorded, from the start of the run, ascending; no repetition."""

    times: tuple[Duration, ...] = ()
    file: str | None = Field(default=None, description="one time [s] a line, beside the scenario")


class Arrivals(Model):
    """An open-loop arrival process: exactly one of its fields is set."""

    poisson: Poisson | None = None
    renewal: Renewal | None = None
    batch: Batch | None = None
    modulated_poisson: ModulatedPoisson | None = None
    piecewise: Piecewise | None = None
    diurnal: Diurnal | None = None
    recorded: Recorded | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("poisson"), (int, float)):
            value = {**value, "poisson": {"rate": value["poisson"]}}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Arrivals:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def family(self) -> str:
        """Name of the one field that is set."""
        return next(iter(self.model_fields_set))


class ClosedLoop(Model):
    """`users` people who each wait for the response, think, and ask again."""

    users: int = Field(ge=1, le=10_000_000)
    think_time: Distribution


class TrafficClass(Model):
    """Requests of one kind entering the mesh at one service.  One of arrivals, closed_loop."""

    to: str
    operation: str = "default"
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = {}
    authority: str = ""
    request_bytes: Size = 500
    response_bytes: Size = 2000
    priority: int = Field(default=0, ge=0, le=3, description="0 is served first")
    zone: str | None = None
    arrivals: Arrivals | None = None
    closed_loop: ClosedLoop | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> TrafficClass:
        if (self.arrivals is None) == (self.closed_loop is None):
            raise ValueError("exactly one of arrivals, closed_loop")
        return self


# --- Timed faults ---------------------------------------------------------------------------


class TimedFault(Model):
    """Something that happens to part of the mesh at a stated time, and may end.

    kill: the endpoints reset their work and refuse connections; slow: compute runs at
    `factor` times its speed; pause: nothing is served; rate: a traffic class's rate is
    multiplied by `factor`; latency: a service's error rate becomes `factor`.
    `trigger` declares the disturbance whose after-effect the metastability verdict tests.
    """

    kind: Literal["kill", "slow", "pause", "rate", "errors"]
    at: Duration
    duration: Duration | None = None
    service: str | None = None
    workload: str | None = None
    replica: int | None = Field(default=None, ge=0)
    zone: str | None = None
    traffic: str | None = None
    factor: float = Field(default=1.0, ge=0, le=1e6)
    trigger: bool = False


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
    network: Network = Network()
    nodes: dict[str, Node] = {}
    services: dict[str, Service] = Field(min_length=1)
    traffic: dict[str, TrafficClass] = {}
    policies: dict[str, ServicePolicy] = {}
    faults: tuple[TimedFault, ...] = ()
    #: Mesh family whose configuration the policies were read from ("istio", ...); empty if the
    #: scenario states them itself.  A client without that mesh's proxy ignores them.
    policy_origin: str = ""
    provenance: dict[str, Provenance] = Field(default={}, exclude=True, repr=False)
    #: What was read and not used: one sentence each, with its place.
    notices: tuple[str, ...] = Field(default=(), exclude=True, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


__all__ = [name for name, value in list(globals().items()) if isinstance(value, type) and issubclass(value, BaseModel)]
_ = model_serializer
