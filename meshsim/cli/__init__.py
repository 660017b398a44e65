"""The command line: ``meshsim run | explain | can-i | emulate | validate ...``.

Rule: a command reads its arguments, calls the library, and prints; it decides nothing about
the mesh.  Exit status 0: done; 1: the input is wrong or the run failed, every problem on
stderr and nothing written; 2: the command line itself is wrong.  The report goes to stdout,
progress and problems to stderr, so that ``meshsim run ... --json - | jq`` works.

Imports are made inside the commands: ``meshsim --help`` must not wait for numba.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import NoReturn

import click

from meshsim.cli.asking import can_i
from meshsim.cli.describing import explain, schema
from meshsim.cli.emulating import emulate
from meshsim.cli.replaying import replay
from meshsim.cli.simulating import bench, run
from meshsim.cli.validating import validate

__all__ = ["main"]

#: Objects made between two looks for garbage; Python's own 700 take a tenth of a short run,
#: because nearly all that imports and scenarios make stays.
_OBJECTS_A_COLLECTION = 50_000


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="meshsim", message="%(prog)s %(version)s")
def _commands() -> None:
    """Simulate a service mesh: latency, errors, CPU and memory before it is built."""


for _command in (run, explain, can_i, schema, bench, emulate, replay, validate):
    _commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; the status is as this module states.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the name of the program; by default those of the process.

    Raises
    ------
    SystemExit
        Always, with the exit status.
    """
    gc.set_threshold(_OBJECTS_A_COLLECTION)
    _commands.main(arguments, prog_name="meshsim")
    raise SystemExit(0)  # not reached: click exits itself
