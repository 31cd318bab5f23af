"""Which signers a process has, by its settings."""

from __future__ import annotations

from chains.signers import Curve, OpenSigners, Signer, UnknownKey
from chains.signers.guarded import Guarded
from chains.signers.journal import Journal
from chains.signers.keystore import Keystore
from chains.signers.policy import Policy
from chains.signers.remote import RemoteSigners
from chains.signers.tables import TableReader
from chains.signers.vault import Vault
from core.settings import KeySettings, Settings


def open_signers(settings: Settings) -> OpenSigners:
    """Those of `coffer signer` where it is configured, and else keys of this process, which checks itself."""
    if settings.signer.socket is not None or settings.signer.address is not None:
        return RemoteSigners(settings.signer)
    return keys_of_settings(settings)


def keys_of_settings(settings: Settings, journal: Journal | None = None) -> OpenSigners:
    """Keys in this process's charge: where the settings say, and all others in the key files."""
    keys = _Keys(settings)
    policy = Policy.from_settings(settings, keys.holds, journal)
    url = settings.signer.tables_rpc_url
    tables = None if url is None else TableReader(url.get_secret_value(), settings.signer.timeout)
    return Guarded(keys, policy, tables)


class _Keys:
    """Every key by its address, wherever it lies."""

    def __init__(self, settings: Settings) -> None:
        """Raises `ValueError` where a setting is missing that a key needs."""
        given = settings.signer
        self._elsewhere = given.keys
        self._signers: dict[str, Signer] = {}
        used = {one.backend for one in given.keys.values()}
        self._vault: Vault | None = None
        if "vault" in used:
            if given.vault_address is None:
                raise ValueError("set COFFER_SIGNER__VAULT_ADDRESS")
            self._vault = Vault(given.vault_address, given.vault_token, given.vault_mount, given.timeout)
        self._kms = None
        if "aws" in used:
            # Imported where it is used: it brings a large library.
            from chains.signers.kms import Kms

            self._kms = Kms(given.aws_region, given.aws_endpoint, given.timeout)
        has_files = bool(settings.keystore_passphrase.get_secret_value()) or not used
        self._files = Keystore.from_settings(settings) if has_files else None

    def holds(self, address: str) -> bool:
        return address in self._elsewhere or (self._files is not None and self._files.holds(address))

    async def signer(self, address: str, derivation: int | None = None) -> Signer:
        where = self._elsewhere.get(address)
        if where is not None and derivation is None:
            if address not in self._signers:
                self._signers[address] = await self._opened(address, where)
            return self._signers[address]
        if self._files is None:
            raise UnknownKey(address)
        return await self._files.signer(address, derivation)

    async def derive(self, curve: Curve, index: int) -> str:
        if self._files is None:
            raise UnknownKey("a master seed")
        return await self._files.derive(curve, index)

    async def close(self) -> None:
        for one in (self._files, self._vault, self._kms):
            if one is not None:
                await one.close()

    async def _opened(self, address: str, where: KeySettings) -> Signer:
        if where.backend == "vault":
            assert self._vault is not None, "a key of Vault has a Vault"
            return await self._vault.signer(address, where.key, where.version)
        assert self._kms is not None, "a key of KMS has a KMS"
        return await self._kms.signer(address, where.key)
