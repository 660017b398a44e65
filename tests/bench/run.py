"""Every benchmark, against its peers in the same run: `make bench`.

Sections, chosen by name on the command line (all by default):

- ``simpy``: the chain and M/M/1 against SimPy.  Floor: 30 times its requests/s on the chain.
- ``prototype``: a three-hop chain with sidecars against a bare compiled loop.  Floor: half its
  events/s, at most 8 events a hop.
- ``scale``: 10 to 10,000 pods with sidecars.  Floor: at 10,000 pods 40 % of the events/s of 100
  pods; the topology compiled in 10 s.
- ``policies``: CPU time a request of the chain with each policy over that without it, used, and
  configured where no request goes.  Floors: unused within 2 %, the median policy and timeouts
  that never fire below 10 %, a load balancer of the user's at 70 % of the built-in's events/s.
- ``data_plane``: a proxy hop on live sockets, plain and mTLS, against nginx and Envoy, where
  they are installed.  Aim: half of Envoy's requests per core, added p50 within twice Envoy's.
- ``push``: how long until 10, 100 and 500 proxies know of a change, embedded broker and
  Mosquitto side by side.  Floor: 100 proxies on the embedded broker, p50 of 500 ms.
- ``start``: seconds from a fresh process to the first event, everything compiled.  Floor: 2 s.

Rates are per CPU second of a whole call of `meshsim.simulate`, statistics included.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import data_plane
import policies
import push_latency
import scale
import start
import versus

SECTIONS = {
    "simpy": versus.simpy,
    "prototype": versus.prototype,
    "scale": scale.measure,
    "policies": policies.measure_policies,
    "data_plane": data_plane.measure,
    "push": push_latency.measure,
    "start": start.measure,
}


def table(rows: list[dict]) -> str:
    """Return `rows` (equal keys) as aligned columns."""
    if not rows:
        return ""
    cells = [list(rows[0])] + [[show(value) for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def show(value: object) -> str:
    """Return a number in three or more digits, readable."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> int:
    """Run the sections asked for; print tables; return 1 if a floor was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION")
    parser.add_argument("--rounds", type=int, default=5, help="ABAB rounds (default 5)")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}")
    results, missed = {}, []
    for name in arguments.sections or SECTIONS:
        rows, floors = SECTIONS[name](arguments.rounds)
        print(f"\n{name}\n{table(rows)}", flush=True)
        for sentence, holds in floors:
            print(f"  {'ok    ' if holds else 'MISSED'} {sentence}", flush=True)
        missed += [sentence for sentence, holds in floors if not holds]
        results[name] = rows
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
