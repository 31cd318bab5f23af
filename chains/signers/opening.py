"""Which signers a process has, by its settings."""

from __future__ import annotations

from chains.signers import Curve, OpenSigners, Signer, UnknownKey
from chains.signers.guarded import Guarded
from chains.signers.journal import Journal
from chains.signers.keystore import Keystore
from chains.signers.policy import Policy
from chains.signers.remote import RemoteSigners
from chains.signers.tables import TableReader
from core.settings import Settings


def open_signers(settings: Settings) -> OpenSigners:
    """Those of `coffer signer` where it is configured, and else keys of this process, which checks itself."""
    if settings.signer.socket is not None or settings.signer.address is not None:
        return RemoteSigners(settings.signer)
    return keys_of_settings(settings)


def keys_of_settings(settings: Settings, journal: Journal | None = None) -> OpenSigners:
    """Keys in this process: those of the settings where they say, all others in the key files."""
    keys = _Keys(settings)
    policy = Policy.from_settings(settings, keys.holds, journal)
    url = settings.signer.tables_rpc_url
    tables = None if url is None else TableReader(url.get_secret_value(), settings.signer.timeout)
    return Guarded(keys, policy, tables)


class _Keys:
    """Every key by its address, wherever it lies. The key files are opened when the first of them is used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._elsewhere = settings.signer.keys
        has_files = bool(settings.keystore_passphrase.get_secret_value()) or not self._elsewhere
        self._files = Keystore.from_settings(settings) if has_files else None

    def holds(self, address: str) -> bool:
        return address in self._elsewhere or (self._files is not None and self._files.holds(address))

    async def signer(self, address: str, derivation: int | None = None) -> Signer:
        if self._files is None:
            raise UnknownKey(address)
        return await self._files.signer(address, derivation)

    async def derive(self, curve: Curve, index: int) -> str:
        if self._files is None:
            raise UnknownKey("a master seed")
        return await self._files.derive(curve, index)

    async def close(self) -> None:
        if self._files is not None:
            await self._files.close()
