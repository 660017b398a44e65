"""Keep calibrations with the machine they belong to, and predictions from before the run.

Rule: a calibration is valid on the machine, Python and meshsim that it was measured with; the
fingerprint of these names its file.  A prediction is a file that exists before the emulator
starts, and what is scored is what is read back from it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from meshsim.errors import ConfigError, Problem
from meshsim.validation.calibration import Calibration

__all__ = [
    "data_folder",
    "digest",
    "fingerprint",
    "load_calibration",
    "machine",
    "predictions_folder",
    "read_json",
    "save_calibration",
    "write_json",
]

#: Version of the files.
_FORMAT = 1
#: Libraries that decide how fast the emulator is.
_LIBRARIES = ("meshsim", "uvloop", "httptools", "cryptography", "numba")


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what decides the speed of this machine, by name."""
    facts = {"python": sys.version.split()[0], "cores": str(os.cpu_count())}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            name, colon, value = line.partition(":")
            if colon and name.strip() == "model name":
                facts["cpu"] = value.strip()
                break
    system = os.uname()
    facts |= {"system": f"{system.sysname} {system.release} {system.machine}"}
    for library in _LIBRARIES:
        try:
            facts[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            facts[library] = "absent"
    return facts


def fingerprint(facts: Mapping[str, str]) -> str:
    """Return 12 hexadecimal digits that name a machine.

    Examples
    --------
    >>> fingerprint({"cores": "2"}) == fingerprint({"cores": "4"})
    False
    """
    return digest(dict(facts))[:12]


def digest(plain: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def data_folder() -> Path:
    """Return where calibrations are kept: below XDG_DATA_HOME, or ~/.local/share."""
    return _home() / "calibrations"


def predictions_folder() -> Path:
    """Return a folder for the predictions of a run that begins now; beside the calibrations."""
    now = datetime.datetime.now(datetime.UTC)
    return _home() / "predictions" / now.strftime("%Y-%m-%dT%H-%M-%S.%f")


def _home() -> Path:
    base = os.environ.get("XDG_DATA_HOME")
    root = Path(base) if base else Path.home() / ".local" / "share"
    return root / "meshsim"


def write_json(path: Path, plain: Mapping[str, Any]) -> str:
    """Write `plain` with the time and its digest, whole or not at all; return the digest."""
    content = dict(plain)
    sealed = {
        "format": _FORMAT,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "digest": digest(content),
        "content": content,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    sibling = path.with_name(f".{path.name}.{os.getpid()}")
    sibling.write_text(json.dumps(sealed, indent=1) + "\n", encoding="utf-8")
    os.replace(sibling, path)
    return str(sealed["digest"])


def read_json(path: Path) -> dict[str, Any]:
    """Return what `write_json` wrote: format, written, digest, content.

    Raises
    ------
    ConfigError
        If the file is not one of ours, or was edited.
    """
    try:
        sealed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        intact = sealed["format"] == _FORMAT and sealed["digest"] == digest(sealed["content"])
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ConfigError([Problem("not a file of this version, or edited since", file=str(path))])
    return sealed


def save_calibration(
    calibration: Calibration, facts: Mapping[str, str], folder: Path | None = None
) -> Path:
    """Keep `calibration` of the machine `facts`; return its file."""
    path = (folder or data_folder()) / f"{fingerprint(facts)}.json"
    write_json(path, {"machine": dict(facts), "calibration": calibration.to_dict()})
    return path


def load_calibration(facts: Mapping[str, str], folder: Path | None = None) -> Calibration | None:
    """Return the calibration of the machine `facts`; None if there is none.

    Raises
    ------
    ConfigError
        If its file is damaged.
    """
    path = (folder or data_folder()) / f"{fingerprint(facts)}.json"
    if not path.is_file():
        return None
    return Calibration.from_dict(read_json(path)["content"]["calibration"])
