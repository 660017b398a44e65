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
# Bookinfo is the sample application of Istio: a product page that calls `details` and
# `reviews`, and two of the three versions of `reviews` call `ratings`. Here it runs in a wind
# tunnel: every request, every sidecar and every retry is simulated, none is real.
#
# The story: look at the mesh as it is, find where the time goes, change one policy, and learn
# whether the difference is real or luck.

# %%
from pathlib import Path

import meshsim as ms

TOPOLOGIES = Path("topologies") if Path("topologies").is_dir() else Path("../topologies")
mesh = ms.load(TOPOLOGIES / "bookinfo.yaml")
print(mesh.question)

# %% [markdown]
# ## Simulate
#
# Ten independent runs of one minute. The first call on a new machine compiles the engine and
# shows its progress; afterwards a run takes seconds.

# %%
result = ms.simulate(mesh, duration="60s", replications=10, seed=1)
result

# %% [markdown]
# `summary()` has one row per traffic class. Each quantile stands with its 95 % confidence
# interval; one that the sample cannot carry is withheld instead of guessed.

# %%
result.summary()

# %% [markdown]
# Where does the time go? Edges tell who calls whom; the proxies' table tells what the mesh
# itself costs.

# %%
result.edges()

# %%
result.proxies()

# %%
result.plot.graph()

# %%
result.plot.latency()

# %%
result.plot.timeline()
