"""Several JSON-RPC endpoints of one chain behind one client. Knows no chain."""

from chains.endpoints.client import Client, raised, silence
from chains.endpoints.endpoint import Endpoint, Limited, Silent, Trouble
from chains.endpoints.jsonrpc import Call, RpcError
from chains.endpoints.opening import open_pool
from chains.endpoints.pool import Disagreement, Pin, Pool, Stranger

__all__ = [
    "Call",
    "Client",
    "Disagreement",
    "Endpoint",
    "Limited",
    "Pin",
    "Pool",
    "RpcError",
    "Silent",
    "Stranger",
    "Trouble",
    "open_pool",
    "raised",
    "silence",
]
