"""The address that proxies listen on.

Rule: what they listen on is what the others are told to connect to, so it is one address of
this machine.  "All of them" (0.0.0.0, ::) is none that anybody could connect to.
"""

from __future__ import annotations

import ipaddress
import socket

from meshsim.errors import ConfigError, Problem

__all__ = ["checked_host", "is_loopback"]


def checked_host(host: str) -> str:
    """Return the address that `host` names, on which this machine can listen.

    Raises
    ------
    ConfigError
        If it names none, none of this machine, or all of them.

    Examples
    --------
    >>> checked_host("127.0.0.1")
    '127.0.0.1'
    """
    reason = "it stands for every address: others could not be told where to connect to"
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        address = str(place[0])
        if not ipaddress.ip_address(address).is_unspecified:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind(place)
            return address
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    message = f"cannot listen on it: {reason}"
    raise ConfigError(
        [Problem(message, path="host", found=host, allowed="an address of this machine")]
    )


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach `address`, or the host of this name.

    Examples
    --------
    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("10.0.0.1")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
