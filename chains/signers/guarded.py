"""Signers that check what they are asked to sign, whatever holds the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chains.protocol import ChainName, TransactionKind
from chains.signers import Curve, OpenSigners, Signer, SigningRefused, SigningRequest
from chains.signers.policy import Policy
from chains.signers.tables import TableReader
from core.logs import get_logger

logger = get_logger(__name__)

_HOME: Final = (TransactionKind.SWEEP, TransactionKind.MOVE)


class Guarded:
    """Implements `Signers`: gives out signers of `keys` that sign what `policy` allows."""

    def __init__(self, keys: OpenSigners, policy: Policy, tables: TableReader | None = None) -> None:
        self._keys = keys
        self._policy = policy
        self._tables = tables

    async def signer(self, address: str, derivation: int | None = None) -> Signer:
        key = await self._keys.signer(address, derivation)
        return _Checked(key, self._policy, self._tables, derived=derivation is not None)

    async def derive(self, curve: Curve, index: int) -> str:
        return await self._keys.derive(curve, index)

    async def close(self) -> None:
        await self._keys.close()
        if self._tables is not None:
            await self._tables.close()


class _Checked:
    """A signer whose every request is read, checked and remembered before the key is touched."""

    def __init__(self, key: Signer, policy: Policy, tables: TableReader | None, *, derived: bool) -> None:
        self._key = key
        self._derived = derived
        self._policy = policy
        self._tables = tables

    @property
    def address(self) -> str:
        return self._key.address

    @property
    def curve(self) -> Curve:
        return self._key.curve

    async def sign(self, request: SigningRequest) -> bytes:
        (signature,) = await self.sign_many([request])
        return signature

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        if not requests:
            return []
        for request in requests:
            if request.address != self.address or Curve.of(request.chain) is not self.curve:
                raise SigningRefused("SigningMismatch", f"the request is for another key than {self.address}")
        try:
            self._check_kinds(requests)
            tables = await self._needed_tables(requests)
            self._policy.record(self._policy.check(requests, tables))
        except SigningRefused as error:
            logger.critical(
                "signing_refused",
                address=self.address,
                code=error.code,
                reason=error.message,
                transactions=[request.purpose.id for request in requests][:20],
            )
            raise
        return await self._key.sign_many(requests)

    def _check_kinds(self, requests: Sequence[SigningRequest]) -> None:
        """A key of a deposit address brings money home. It pays nobody: the limits are those of one key, and
        there is no end of derived ones."""
        if self._derived and any(request.purpose.kind not in _HOME for request in requests):
            raise SigningRefused("SigningNotAllowed", f"{self.address} is a deposit address, and pays nobody")

    async def _needed_tables(self, requests: Sequence[SigningRequest]) -> dict[str, list[str]]:
        if self._tables is None or self.curve is not Curve.of(ChainName.SOLANA):
            return {}
        return await self._tables.needed(requests)
