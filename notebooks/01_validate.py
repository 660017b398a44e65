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
# # How wrong is the simulator?
#
# A simulator that nobody has checked is an opinion. Here it is put to the test: the machine is
# calibrated on *one* service with one worker, every other scenario is predicted, the predictions
# are written down, and only then are they run on real sockets, with real proxies, real mutual
# TLS and a real control plane.
#
# Two rules keep it honest. Nothing is fitted after the predictions are written. And no error
# stands alone: beside it is the *noise floor*, by how much the emulator differs from itself when
# the same run is repeated.

# %%
# %matplotlib inline
import json
from pathlib import Path

import pandas as pd

import meshsim as ms
from meshsim.topology import loads_topology
from meshsim.validation import load_scores
from meshsim.validation.figures import draw_errors

ROOT = Path() if Path("data").is_dir() else Path("..")
STORED = ROOT / "data" / "validation" / "suite.json"

# %% [markdown]
# ## One scenario, now
#
# The same requests, at the same times, with the same service times: once simulated, once on
# real sockets. This is not calibrated; it shows what "the same draws" means. Arrivals and work
# are equal request by request, so what differs is the machine.

# %%
SCENARIO = """
name: one-service
services:
  server:
    workloads:
      v1: {concurrency: 2, steps: [compute: {exponential: 20ms}]}
traffic:
  load: {to: server, arrivals: {poisson: 60}}
"""
mesh = loads_topology(SCENARIO)
simulated = ms.simulate(mesh, duration="8s", replications=1, seed=1, progress=False)
emulated = ms.emulate(mesh, duration="8s", seed=1, dilation=1.0, progress=False)
pd.concat({"simulated": simulated.traffic(), "emulated": emulated.traffic()})[
    ["offered_rps", "success", "mean_ms", "p50_ms"]
]

# %% [markdown]
# ## The suite
#
# `meshsim validate --suite --report DIR` calibrates the machine and runs thirteen scenarios: two
# loads, a chain, a fan-out, four load balancers with a slow host, retries with a timeout, a
# circuit breaker at 1.2 times the capacity, a weighted split, reconnecting with mutual TLS, and
# a configuration push under load. It takes most of an hour, so here is a stored outcome.

# %%
stored = json.loads(STORED.read_text())
print(", ".join(f"{name} {value}" for name, value in stored["machine"].items()))
print("predictions written", stored["predicted_at"], "sha256", stored["predictions_digest"][:16])
stored["counts"]

# %% [markdown]
# What the machine costs, fitted on the single service alone:

# %%
costs = stored["calibration"]
pd.Series(
    {
        "harness stage, mean [ms]": sum(costs["harness_ns"]) / len(costs["harness_ns"]) / 1e6,
        "hop [ms]": costs["hop_ns"] / 1e6,
        "request at the server [ms]": costs["request_ns"] / 1e6,
        "handshake, each side [ms]": costs["handshake_ns"] / 1e6,
    },
    name="on that machine",
).round(3)

# %% [markdown]
# The error of each prediction, its floor and its band, on the same draws:

# %%
scores = pd.DataFrame(load_scores(STORED))
same = scores[(scores.draws == "same") & (scores.metric.isin(["p50", "p90", "p99"]))]
same.assign(error=100 * same.error, floor=100 * same.floor).pivot(
    index="scenario", columns="metric", values=["error", "floor", "verdict"]
)

# %%
draw_errors(load_scores(STORED))

# %% [markdown]
# A dot inside the grey band is a prediction that holds. A dot outside it whose bar does not reach
# zero is a finding: something the model does not know. The findings are part of the outcome.

# %%
for finding in stored["findings"]:
    print("-", finding)

# %% [markdown]
# Does the simulator put policies into the right order? That is what it is most often asked.

# %%
for item in stored["orders"]:
    print(item["group"], "with", item["draws"], "draws:", item["verdict"], item["reason"])
    print("  predicted:", " < ".join(item["predicted"]))
    print("  measured: ", " < ".join(item["measured"]))

# %% [markdown]
# To know it for your own mesh, on your own machine:
#
# ```
# meshsim validate topologies/bookinfo.yaml --report report
# ```
