"""The proxies of the emulator: HTTP/1.1 on asyncio protocols, decisions by the policy engine.

An `OutboundProxy` carries a workload's calls to the services of the mesh; an `InboundProxy`
carries the mesh's requests to a workload.  Neither decides anything about a request itself.
"""

from emulator.proxy.inbound import InboundProxy
from emulator.proxy.outbound import OutboundProxy

__all__ = ["InboundProxy", "OutboundProxy"]
