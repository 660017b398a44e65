"""Mosquitto's files: the rules of the embedded broker, for a broker of your own.

Rule: who is let in, and what they may say and hear, is as `meshsim.controlplane.topics` says, of
a mesh of any name: each run has its own.  A user who runs two meshes at once may so hear both,
and believes the one whose control plane has the pinned key.  Passwords are hashed.  Mosquitto
denies silently: a refused publish is acknowledged and dropped.

References
----------
mosquitto.conf(5), mosquitto_passwd(1) ($7$: PBKDF2-SHA512).
"""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
from collections.abc import Mapping, Sequence
from pathlib import Path

from emulator.control.broker import PACKET_BYTES_MAX
from meshsim.controlplane.topics import HARNESS, Grant, encoded, grants_of, node_grants

__all__ = ["mosquitto_files", "write_private"]


def mosquitto_files(
    directory: Path,
    port: int,
    passwords: Mapping[str, str],
    *,
    nodes: Sequence[str] = (),
    host: str = "127.0.0.1",
    tls: tuple[Path, Path, Path] | None = None,
) -> Path:
    """Write Mosquitto's configuration, passwords and access list; return the configuration.

    Parameters
    ----------
    directory : Path
        Private to the user; the files are made readable by the owner only.
    port : int
        Of the listener.
    passwords : mapping of str to str
        By user: proxies, the control plane, and with `nodes` those and the harness.
    nodes : sequence of str
        Users that are nodes on other machines.
    host : str
        Address to listen on.
    tls : (CA, certificate, key), optional
        PEM files; clients must then present a certificate of this CA.
    """
    users = directory / "passwords"
    write_private(users, "".join(f"{encoded(u)}:{_hashed(p)}\n" for u, p in passwords.items()))
    proxies = [user for user in passwords if user not in (*nodes, HARNESS)]
    grants = {**grants_of(None, proxies), **(node_grants(None, nodes) if nodes else {})}
    access = directory / "access"
    write_private(access, _access_list(grants))
    lines = [
        f"listener {port} {host}",
        "allow_anonymous false",
        f"password_file {users}",
        f"acl_file {access}",
        "persistence false",
        "max_queued_messages 10000",
        "max_inflight_messages 100",
        f"max_packet_size {PACKET_BYTES_MAX}",
        # Started by root it would become another user, who cannot read these files.
        f"user {pwd.getpwuid(os.getuid()).pw_name}",
        "log_dest stderr",
        "log_type error",
    ]
    if tls is not None:
        names = ("cafile", "certfile", "keyfile")
        lines += [f"{name} {path}" for name, path in zip(names, tls, strict=True)]
        lines.append("require_certificate true")
    configuration = directory / "mosquitto.conf"
    write_private(configuration, "\n".join(lines) + "\n")
    return configuration


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read."""
    path.touch(mode=0o600)
    path.chmod(0o600)  # one that was there may be anything
    path.write_text(text)


def _hashed(password: str) -> str:
    salt = os.urandom(12)
    rounds = 101  # mosquitto_passwd's own
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _access_list(grants: Mapping[str, Grant]) -> str:
    lines = []
    for user, grant in grants.items():
        lines.append(f"user {encoded(user)}")
        lines += [f"topic write {item}" for item in grant.publish]
        lines += [f"topic read {item}" for item in grant.subscribe]
        lines.append("")
    return "\n".join(lines)
