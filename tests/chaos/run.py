"""Many seeds of the swarm, one after another: `make chaos SEED=1 RUNS=10000 EVERY=97`.

What was done stands in ``out/chaos``, a line a run: an interrupted call goes on where it was, as
long as the engine and the swarm are the same.  A seed that finds something is run again with the
checks after each event, which names the first event after which something is wrong, and joins
``regressions.txt``.  Exit code 1 if any did.
"""

import argparse
import json
import time
import traceback
import zlib
from pathlib import Path

from swarm import Story, story

from meshsim.jit import CACHE_FOLDER

FOLDER = Path(__file__).resolve().parent
OUT = FOLDER.parent.parent / "out" / "chaos"
REGRESSIONS = FOLDER / "regressions.txt"
#: Seconds between two lines of progress.
PROGRESS_S = 20.0


def examined(seed: int, every: int) -> dict:
    """Run one seed; return its line."""
    begin_s = time.process_time()
    try:
        found = story(seed, every)
        if found.problems and every > 1:
            found.problems += [f"each event: {text}" for text in story(seed, 1).problems]
    except Exception:  # whatever it is, it is a finding, and the next seed is run
        found = Story(0, [traceback.format_exc(limit=-4)])
    spent_s = round(time.process_time() - begin_s, 3)
    return {
        "seed": seed,
        "events": found.events,
        "problems": found.problems,
        "limit": found.limit,
        "cpu_s": spent_s,
    }


def remember(seed: int, problem: str) -> None:
    """Add a seed to the regressions, unless it is there."""
    text = REGRESSIONS.read_text()
    if any(line.split()[:1] == [str(seed)] for line in text.splitlines()):
        return
    first = " ".join(problem.split())[:120]
    REGRESSIONS.write_text(f"{text.rstrip()}\n{seed}  # not yet explained: {first}\n")


def progress_file(first: int, every: int) -> Path:
    """Return where the runs of this engine and this swarm stand."""
    swarm = zlib.crc32((FOLDER / "swarm.py").read_bytes())
    return OUT / f"from-{first}-every-{every}-{CACHE_FOLDER.name}-{swarm:08x}.jsonl"


def tell(done: list[dict], runs: int, begun_s: float, before: int) -> None:
    """Print how far the runs are."""
    found = sum(bool(entry["problems"]) for entry in done)
    events = sum(entry["events"] for entry in done)
    limited = sum(bool(entry["limit"]) for entry in done)
    new = len(done) - before
    left_s = (time.perf_counter() - begun_s) / new * (runs - len(done)) if new else 0.0
    print(
        f"{len(done)} of {runs} runs, {events:,} events, {limited} ended at a limit, "
        f"{found} with a violated invariant; {left_s / 60:.0f} min left",
        flush=True,
    )


def main() -> int:
    """Run the seeds asked for that have not been run; print the findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="first seed (default 1)")
    parser.add_argument("--runs", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--every", type=int, default=97, help="events between checks (default 97)")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    path = progress_file(arguments.seed, arguments.every)
    lines = path.read_text().splitlines() if path.exists() else []
    done = [json.loads(line) for line in lines[: arguments.runs]]
    before, begun_s = len(done), time.perf_counter()
    told_s = begun_s
    with path.open("a") as file:
        for seed in range(arguments.seed + before, arguments.seed + arguments.runs):
            entry = examined(seed, arguments.every)
            file.write(json.dumps(entry) + "\n")
            file.flush()
            done.append(entry)
            if entry["problems"]:
                print(f"seed {seed}: {entry['problems'][0]}")
                print(f"  replay: python tests/chaos/swarm.py {seed}", flush=True)
                remember(seed, entry["problems"][0])
            if time.perf_counter() - told_s > PROGRESS_S:
                told_s = time.perf_counter()
                tell(done, arguments.runs, begun_s, before)
    tell(done, arguments.runs, begun_s, before)
    print(f"written: {path}")
    return 1 if any(entry["problems"] for entry in done) else 0


if __name__ == "__main__":
    raise SystemExit(main())
