"""The servers as they are: endpoints, the programs they run, and the cores they share.

An ENDPOINT is a station: it admits up to `concurrency` tasks and queues the rest.  A TASK is
one request being served (or one parallel branch of it).  Compute on dedicated cores ends at a
time known when it starts; compute on shared cores belongs to a CONTAINER, whose tasks advance
together in *virtual* time at a rate that the NODE grants.
"""

from __future__ import annotations

import numpy as np

from meshsim.state.rows import row_dtype

# Queueing disciplines.
FCFS = 0
PRIORITY = 1
PREEMPTIVE_PRIORITY = 2
#: Number of priority classes; 0 is served first.
PRIORITY_COUNT = 4

# What a server does when the caller gives up.
ON_TIMEOUT_CONTINUE = 0
ON_TIMEOUT_CANCEL_QUEUED = 1
ON_TIMEOUT_CANCEL_WORK = 2

ENDPOINT_DTYPE = row_dtype(
    [
        ("workload", "i4"),
        ("alive", "i4"),  # 0: refuses connections
        ("discipline", "i4"),
        ("concurrency", "i4"),
        ("busy", "i4"),  # workers held
        ("queued", "i4"),
        ("queue_limit", "i4"),
        ("hold_worker", "i2"),  # 1: a task keeps its worker while it calls
        ("deadlines", "i2"),  # 1: it minds the deadlines of its requests, and passes them on
        ("container", "i4"),  # shared cores, or NO_INDEX: dedicated
        ("proxy", "i4"),  # sidecar in front of it, or NO_INDEX
        ("node", "i4"),
        ("zone", "i4"),
        ("updated_ns", "i8"),
        ("speed", "f8"),  # 1: nominal; 0: paused
        # the second line
        ("requests", "i8"),
        ("completed", "i8"),
        ("busy_ns", "i8"),  # integral of `busy` up to updated_ns
        ("queue_ns", "i8"),  # integral of `queued` up to updated_ns
        ("cpu_ns", "i8"),
        ("error_rate", "f8"),
        ("on_timeout", "i2"),
        ("gray", "i2"),  # GRAY row, or NO_INDEX: it treats all requests alike
        ("patience", "i4"),  # DISTRIBUTION, or NO_INDEX
        ("running_head", "i4"),  # tasks in service; kept for PREEMPTIVE_PRIORITY only
        ("inbound", "i4"),  # INBOUND row: filters of its proxy; NO_INDEX: it has none
        # the third line
        ("rejected", "i8"),
        ("reneged", "i8"),
        ("cache_start", "i8"),  # cached_until_ns[cache_start:][:cache_count]: what it has cached
        ("cache_count", "i8"),
        ("retry_after_s", "i4"),  # that a refusal of its queue says [s]; NO_INDEX: it says nothing
        ("bulkhead_start", "i4"),  # BULKHEAD rows of its programs' calls
        ("fallbacks", "i8"),  # taken by its programs
    ]
)

#: What programs count of their calls: name -> field of ENDPOINT_DTYPE.
APPLICATION_STATS = {"fallbacks": "fallbacks"}

# States of a task.
TASK_FREE = 0
TASK_QUEUED = 1
TASK_RUNNING = 2  # computing or sleeping
TASK_WAITING = 3  # for a call, or for its branches
TASK_ENDED = 4  # a branch that waits for its siblings
TASK_PASSING = 5  # not a server's: a pass through a proxy on shared cores
TASK_AT_BULKHEAD = 6  # waits until its bulkhead lets it call
TASK_LET_THROUGH = 7  # it has, and calls at this instant

# How a task holds a worker.
WORKER_NONE = 0
WORKER_OWN = 1
WORKER_BORROWED = 2  # a branch working on its parent's worker

TASK_DTYPE = row_dtype(
    [
        ("wake", "i4"),  # of its one outstanding event
        ("state", "i4"),
        ("next", "i4"),  # free list, queue, or running list
        ("endpoint", "i4"),
        ("attempt", "i4"),  # ATTEMPT it answers; NO_INDEX for a branch
        ("step", "i4"),  # program counter
        ("worker", "i4"),
        ("parent", "i4"),  # TASK whose branch it is, or NO_INDEX
        ("computing", "i4"),  # 1: the running step is compute, 0: sleep
        ("status", "i4"),
        ("traffic", "i4"),
        ("priority", "i4"),
        ("entered_ns", "i8"),  # since when it is in this state
        ("key", "u8"),
        # the second line
        ("generation", "i4"),  # of the row: handles, cancellations
        ("exchange", "i4"),  # call under way, or NO_INDEX
        ("exchange_generation", "i4"),
        ("flags", "i4"),
        ("first_branch", "i4"),
        ("branches", "i4"),  # branches not yet ended
        ("queue_ns", "i8"),
        ("service_ns", "i8"),
        ("number", "i8"),
        ("finish_ns", "i8"),  # dedicated cores: end of the running step
        ("work_ns", "f8"),  # not yet done, while preempted or paused
        # the third line
        ("previous", "i4"),
        ("slowed", "i4"),  # 1: hit by the gray failure of its endpoint, if that has one
        ("sibling", "i4"),
        ("left", "i4"),  # skew heap of its container
        ("right", "i4"),
        ("rif", "i4"),  # requests in flight at its server when it arrived, where servers are probed
        ("span", "i8"),
        ("tag", "f8"),  # shared cores: virtual time at which the step ends
        ("continuation", "i8"),  # TASK_PASSING: the event to run at the end
        ("arrived_ns", "i8"),  # where servers are probed
        ("deadline_ns", "i8"),  # at an endpoint that minds deadlines; NEVER_NS: none
    ]
)

CONTAINER_DTYPE = np.dtype(
    [
        ("node", "i4"),
        ("running", "i4"),
        ("root", "i4"),  # TASK with the smallest tag, or NO_INDEX
        ("next", "i4"),  # next container of the node
        ("limit_cores", "f8"),
        ("share_cores", "f8"),
        ("speed", "f8"),
        ("penalty", "f8"),  # compute slows by 1 + penalty * (running - 1)
        ("virtual_ns", "f8"),
        ("rate", "f8"),  # virtual ns per ns for each running task
        ("updated_ns", "i8"),
    ],
    align=True,
)

NODE_DTYPE = np.dtype(
    [
        ("first", "i4"),  # first CONTAINER
        ("wake", "i4"),  # of its one outstanding completion event
        ("cores", "f8"),
    ],
    align=True,
)

# Kinds of steps.
STEP_END = 0
STEP_COMPUTE = 1
STEP_SLEEP = 2
STEP_CALL = 3
STEP_PARALLEL = 4
STEP_CACHE = 5  # a miss runs as its one branch

# What a program does when a call of it has failed.
ON_FAILURE_END = 0  # it ends, with status 500
ON_FAILURE_GO_ON = 1
ON_FAILURE_FALL_BACK = 2  # the steps that follow the call run, which otherwise do not

STEP_DTYPE = np.dtype(
    [
        ("kind", "i4"),
        ("distribution", "i4"),  # of a call its bulkhead, from `bulkhead_start` on; or NO_INDEX
        ("call", "i4"),  # CALL, or the CACHE of a cache
        ("ordinal", "i4"),  # place in its program: part of the draw key
        ("on_failure", "i4"),  # ON_FAILURE_*
        ("branch_start", "i4"),  # branches[branch_start:][:branch_count] are first steps
        ("branch_count", "i4"),
        ("fallback_count", "i4"),  # steps after this one that run only if it has failed
        ("probability", "f8"),
    ],
    align=True,
)

#: What one replica may call of one service at once.
BULKHEAD_DTYPE = np.dtype(
    [
        ("max_concurrent_calls", "i8"),
        ("max_waiting_calls", "i8"),
        ("max_wait_ns", "i8"),
        ("active", "i8"),
        ("waiting", "i8"),
        ("permitted", "i8"),
        ("rejected", "i8"),
        ("waited", "i8"),
        ("head", "i4"),  # first TASK that waits, or NO_INDEX
        ("tail", "i4"),
    ],
    align=True,
)
#: What it counts of its calls: name -> field.
BULKHEAD_STATS = {f"bulkhead_{name}": name for name in ("permitted", "rejected", "waited")}

#: A cache of a workload: every replica has one of its own.
CACHE_DTYPE = np.dtype(
    [
        ("keys", "i8"),
        ("cacheable", "f8"),  # share of the requests that ask for one of the keys
        ("ttl_ns", "i8"),  # NEVER_NS: until it is flushed
        ("offset", "i8"),  # within what an endpoint has cached
        ("popularity_start", "i4"),  # popularity[popularity_start:][:keys], or NO_INDEX: all equal
    ],
    align=True,
)

#: A gray failure: what it does to the requests of some callers.
GRAY_DTYPE = np.dtype(
    [
        ("share", "f8"),  # of the requests that it hits, 0 to 1
        ("error_rate", "f8"),  # of those, 0 to 1
        ("speed", "f8"),  # of the others that it hits, > 0
    ],
    align=True,
)
