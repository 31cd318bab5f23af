"""What address lookup tables of Solana hold, asked of a node that the signer's operator chose.

A table is only ever added to, and its address never names another one: what was read once stays true. Layout:
a head of 56 bytes, then 32 bytes for each address
(https://docs.anza.xyz/proposals/versioned-transactions, `LOOKUP_TABLE_META_SIZE`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import httpx
from solders.pubkey import Pubkey

from chains.signers import SignerUnavailable, SigningRequest
from chains.signers.intents.solana import lookups

_PROGRAM: Final = "AddressLookupTab1e1111111111111111111111111"
_HEAD: Final = 56


class TableReader:
    """Reads tables at `finalized` and remembers them."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._client = httpx.AsyncClient(timeout=timeout)
        self._known: dict[str, list[str]] = {}

    async def needed(self, requests: Sequence[SigningRequest]) -> dict[str, list[str]]:
        """The tables of all messages that use any. One that does not exist is left out. Raises
        `SigningRefused` for what is no message, `SignerUnavailable` while the node does not answer."""
        used = [lookup for request in requests for lookup in lookups(request.unsigned)]
        for lookup in used:
            known = self._known.get(lookup.table)
            if known is None or any(index >= len(known) for index in lookup.indexes):
                found = await self._read(lookup.table)
                if found is not None:
                    self._known[lookup.table] = found
        return {one.table: self._known[one.table] for one in used if one.table in self._known}

    async def close(self) -> None:
        await self._client.aclose()

    async def _read(self, table: str) -> list[str] | None:
        options = {"encoding": "base64", "commitment": "finalized"}
        asked = {"jsonrpc": "2.0", "id": 1, "method": "getAccountInfo", "params": [table, options]}
        try:
            answer = await self._client.post(self._url, json=asked)
            account: Any = answer.raise_for_status().json()["result"]["value"]
            if account is None or account["owner"] != _PROGRAM:
                return None
            data = base64.b64decode(account["data"][0], validate=True)
        except (httpx.HTTPError, ValueError, LookupError, TypeError, binascii.Error):
            # The address may hold a credential: the error is not quoted.
            raise SignerUnavailable("the signer's node of Solana did not tell of a lookup table") from None
        return [str(Pubkey.from_bytes(data[at : at + 32])) for at in range(_HEAD, len(data) - 31, 32)]
