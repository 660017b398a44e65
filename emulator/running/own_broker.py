"""A broker of the user's own, made ready for a scenario.

Rule: it knows the users of the scenario and grants them what the embedded broker would, so what
is written here is all that `--broker` and `--remote` need.  All users have one password, which
is in a file with the broker's URL, readable by its owner only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from emulator.control.broker_url import check_broker, password_in
from emulator.control.bus import PORTS
from emulator.control.mosquitto import mosquitto_files, write_private
from emulator.running.plan import plan_run
from emulator.running.run import proxies_of
from meshsim.controlplane.topics import CONTROL_PLANE, HARNESS
from meshsim.topology.model import Topology

__all__ = ["prepare_mosquitto"]

_URL = "mqtt://127.0.0.1"


def prepare_mosquitto(
    topology: Topology,
    directory: str | os.PathLike[str],
    *,
    broker: str | None = None,
    mesh: str | None = None,
    remote: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Write the files of a Mosquitto for a scenario.

    Parameters
    ----------
    topology : Topology
        The scenario.
    directory : str or Path
        Made if it is not there, for its owner only.
    broker : str, optional
        URL that it will have; on loopback by default.  A password in it is used, else one is
        drawn; the files of ``mqtts://`` become the broker's.
    mesh : str, optional
        Mesh profile to use instead of the scenario's.
    remote : sequence of str
        Nodes of the scenario that other machines host.

    Returns
    -------
    (Path, Path)
        Mosquitto's configuration, and the file with the URL, as `emulate` takes it.

    Raises
    ------
    ConfigError
        If the scenario or the URL is wrong.
    """
    url = broker or _URL
    check_broker(url)
    plan = plan_run(topology, 1.0, 1, broker=url, mesh=mesh, remote=remote)
    parts, password = urlsplit(url), password_in(url) or os.urandom(16).hex()
    users = [*proxies_of(plan.compiled), CONTROL_PLANE]
    if plan.remote:
        users += [*plan.remote, HARNESS]
    files = {name: Path(found[-1]).resolve() for name, found in parse_qs(parts.query).items()}
    folder = Path(directory).resolve()
    folder.mkdir(mode=0o700, exist_ok=True)
    configuration = mosquitto_files(
        folder,
        parts.port or PORTS[parts.scheme],
        dict.fromkeys(users, password),
        nodes=plan.remote,
        host=parts.hostname or "",
        tls=(files["ca"], files["cert"], files["key"]) if files else None,
    )
    place, query = parts.netloc.rpartition("@")[2], f"?{parts.query}" if parts.query else ""
    stated = folder / "url"
    write_private(stated, f"{parts.scheme}://:{quote(password, safe='')}@{place}{query}\n")
    return configuration, stated
