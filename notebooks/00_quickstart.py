# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: what does a load balancer buy?
#
# Bookinfo is Istio's sample application: a product page asks `details` and `reviews`, and two
# of the three versions of `reviews` ask `ratings`. Here it stands in a wind tunnel: every
# request, sidecar and retry is simulated, none is real.
#
# The story: look at the mesh as it is, put it under load, change one policy, and learn whether
# the difference is real or luck.

# %%
# %matplotlib inline
from pathlib import Path

import pandas as pd

import meshsim as ms

FOLDER = Path("topologies") if Path("topologies").is_dir() else Path("../topologies")
mesh = ms.load(FOLDER / "bookinfo.yaml")
print(mesh.question)

# %% [markdown]
# ## The mesh as it is
#
# Ten independent runs of one minute. The first call of a new version compiles the engine and
# shows its progress; afterwards this takes about a second.

# %%
result = ms.simulate(mesh, duration="60s", replications=10, seed=1)
result

# %% [markdown]
# Every table is a pandas frame with units in its column names. Latencies stand with their 95 %
# confidence interval; a quantile that the sample cannot carry is withheld, not guessed.

# %%
result.traffic().T

# %% [markdown]
# Who calls whom, and where does the time of a request go?

# %%
result.edges()[["caller", "service", "requests_rps", "success", "mean_ms", "p99_ms"]]

# %%
result.breakdown()

# %%
result.plot.graph()

# %% [markdown]
# At 100 requests a second nothing waits: a tenth of the time is spent in proxies, a tenth on
# the wire, the rest is work. What do the sidecars themselves cost?

# %%
result.data_plane()

# %% [markdown]
# And where does a number come from? Nobody wrote a number of retries into the file.

# %%
print(ms.explain(mesh, "policies.reviews.routes[0].retry.num_retries"))

# %% [markdown]
# ## Under load
#
# Now the same application with more replicas, single-threaded `reviews`, and 2,500 requests a
# second.

# %%
busy = ms.with_values(
    mesh,
    {
        "traffic.browse.rate": 2500,
        "services.productpage.replicas": 10,
        "services.details.replicas": 4,
        "services.ratings.replicas": 4,
        "services.reviews.replicas": 4,
        "services.reviews.concurrency": 1,
    },
)

# %% [markdown]
# One policy is varied: how the sidecars of `productpage` choose among the twelve replicas of
# `reviews`. Each sidecar knows its own requests only, as in a real mesh; ten of them do not
# share a counter.

# %%
runs = {
    policy: ms.simulate(
        ms.with_values(busy, {"policies.reviews.load_balancing.policy": policy}),
        duration="20s",
        replications=10,
        seed=1,
    )
    for policy in ("RANDOM", "ROUND_ROBIN", "LEAST_REQUEST")
}
pd.concat({policy: run.traffic() for policy, run in runs.items()})[
    ["mean_ms", "p50_ms", "p90_ms", "p99_ms"]
]

# %% [markdown]
# The random policy gives all twelve replicas the same share. Versions 2 and 3 hold their only
# worker while they wait for `ratings`, so they are busy almost all the time, and requests queue.

# %%
by_version = {
    policy: run.endpoints().query("service == 'reviews'").groupby("workload")
    for policy, run in runs.items()
}
pd.concat(
    {policy: groups[["utilisation", "queue_mean"]].mean() for policy, groups in by_version.items()}
)

# %%
runs["RANDOM"].plot.latency()

# %%
runs["LEAST_REQUEST"].plot.latency()

# %% [markdown]
# ## Real, or luck?
#
# The runs share their random numbers: the same request arrives at the same time and needs the
# same work under each policy. So the difference can be taken run by run, and is known better
# than either value. An interval that excludes zero is a difference.

# %%
pd.concat(
    {
        (policy, metric): run.difference(runs["RANDOM"], metric)
        for policy, run in runs.items()
        if policy != "RANDOM"
        for metric in ("mean", "p99")
    },
    names=["policy", "metric"],
)

# %% [markdown]
# ## A timeout is a policy too
#
# Give each request for reviews 30 ms and no retry under the random policy: the slow ones now
# fail. How much latency is bought with how many errors?

# %%
impatient = ms.with_values(
    busy,
    {
        "policies.reviews.load_balancing.policy": "RANDOM",
        "policies.reviews.routes": [{"timeout": "30ms", "retry": {"num_retries": 0}}],
    },
)
timed = ms.simulate(impatient, duration="20s", replications=10, seed=1)
timed.traffic()[["success", "mean_ms", "p99_ms"]]

# %%
timed.flags()

# %%
timed.plot.timeline()

# %% [markdown]
# The timeout makes the page quick for those who get one, and one in nine visitors does not.
# Choosing the less busy of two replicas made it quick for all.
#
# Next: put your own service times into `topologies/bookinfo.yaml`, or load your own manifests
# with `ms.load("manifests", traffic="traffic.yaml")`.
