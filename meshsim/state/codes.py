"""Named integer codes shared by the policy engine, the kernel and the emulator.

Absent is a named code, not a bare -1.
"""

from __future__ import annotations

#: No such row (host, endpoint, exchange, ...).
NO_INDEX = -1
NO_HOST = -1
#: A deadline that never comes [ns].
NEVER_NS = (1 << 63) - 1

# Load-balancing policies (field `balancing` of CLUSTER_CONFIG_DTYPE).
ROUND_ROBIN = 0
LEAST_REQUEST = 1
RANDOM = 2
RING_HASH = 3
MAGLEV = 4
PEAK_EWMA = 5
#: LEAST_REQUEST with selection_method FULL_SCAN.
LEAST_REQUEST_FULL_SCAN = 6
#: A function of the user's (meshsim.policy.custom).
CUSTOM = 7
# Those that see the true queues of servers, as no proxy can.
ORACLE_SHORTEST_QUEUE = 8
ORACLE_STALE_QUEUE = 9
ORACLE_IDLE_QUEUE = 10
#: Probes of random servers (meshsim.policy.load_balancing.prequal).
PREQUAL = 11

# What comes before the balancer (field `picking` of CLUSTER_CONFIG_DTYPE).
PICK_PLAIN = 0  # nothing: it picks among all members
PICK_GROUPED = 1  # priority and locality
PICK_SUBSET = 2  # labels that the route asks for
PICK_ORACLE = 3  # it is an oracle, and sees the servers
PICK_REPORTED = 4  # weights that load reports give
PICK_HIGH = 5  # requests of HIGH priority: as the row of DEFAULT priority says
PICK_HASHED = 6  # a hash table over the hosts that are selectable now
PICK_PROBED = 7  # what probes of servers told

# Envoy's RoutingPriority (field `priority` of ROUTE_DTYPE).
PRIORITY_DEFAULT = 0
PRIORITY_HIGH = 1

# What access rules say of a request (meshsim.policy.authorization).
ACCESS_UNRESTRICTED = 0  # no rule bears on it
ACCESS_ALLOWED = 1
ACCESS_FORBIDDEN = 2  # the proxy answers 403
ACCESS_NOT_FOUND = 3  # the proxy answers 404
ACCESS_RESET = 4  # the connection is reset
ACCESS_DROPPED = 5  # packets are dropped

# Response flags of Envoy, in the order of the columns of every table of flags.
FLAG_NONE = 0
FLAG_UH = 1  # no healthy upstream
FLAG_UF = 2  # upstream connection failure
FLAG_UO = 3  # upstream overflow (circuit breaker)
FLAG_NR = 4  # no route
FLAG_URX = 5  # upstream retry limit exceeded
FLAG_UT = 6  # upstream request timeout
FLAG_LR = 7  # connection local reset
FLAG_UR = 8  # upstream remote reset
FLAG_UC = 9  # upstream connection termination
FLAG_DC = 10  # downstream connection termination
FLAG_NC = 11  # no cluster
FLAG_RL = 12  # rate limited
FLAG_DI = 13  # fault: delay injected
FLAG_FI = 14  # fault: abort injected
FLAG_RLSE = 15  # rate limit service error
FLAG_COUNT = 16
FLAG_NAMES = (
    "-",
    "UH",
    "UF",
    "UO",
    "NR",
    "URX",
    "UT",
    "LR",
    "UR",
    "UC",
    "DC",
    "NC",
    "RL",
    "DI",
    "FI",
    "RLSE",
)

# What ended an attempt, beside an HTTP status (stimuli of the request machine).
#: No reset, but a response that is marked x-envoy-ratelimited.
RESET_RATELIMITED = -1
RESET_NONE = 0
RESET_CONNECT_FAILURE = 1
RESET_REMOTE = 2  # the upstream closed the connection after the request was sent
RESET_REFUSED_STREAM = 3
RESET_PER_TRY_TIMEOUT = 4
RESET_OVERFLOW = 5  # a circuit breaker refused the attempt
RESET_NO_HOST = 6

# Hedging of a route: when a request gets another try beside those that are under way.
HEDGE_NEVER = 0
HEDGE_ON_PER_TRY_TIMEOUT = 1  # Envoy's: a try that times out goes on beside its retry
HEDGE_AFTER_DELAY = 2  # gRPC's: copies at a fixed pace, until one is answered

# Headers that say until when a rate limit holds (bits of `reset_headers` of ROUTE_DTYPE).
RESET_BY_RATELIMIT = 1 << 0  # x-ratelimit-reset, in seconds
RESET_BY_RETRY_AFTER = 1 << 1  # retry-after, in seconds

# How back-offs of a route are spread.
JITTER_FULL = 0  # Envoy's
JITTER_NONE = 1
JITTER_EQUAL = 2
JITTER_DECORRELATED = 3

# Retry conditions (bits of `retry_on`).
RETRY_5XX = 1 << 0
RETRY_GATEWAY_ERROR = 1 << 1
RETRY_RESET = 1 << 2
RETRY_RESET_BEFORE_REQUEST = 1 << 3
RETRY_CONNECT_FAILURE = 1 << 4
RETRY_REFUSED_STREAM = 1 << 5
RETRY_RETRIABLE_4XX = 1 << 6
RETRY_RETRIABLE_STATUS_CODES = 1 << 7
RETRY_GRPC_UNAVAILABLE = 1 << 8
RETRY_GRPC_CANCELLED = 1 << 9
RETRY_GRPC_DEADLINE_EXCEEDED = 1 << 10
RETRY_GRPC_INTERNAL = 1 << 11
RETRY_GRPC_RESOURCE_EXHAUSTED = 1 << 12
RETRY_ENVOY_RATELIMITED = 1 << 13
#: Not Envoy's: the route's custom policy is asked.
RETRY_CUSTOM = 1 << 14
