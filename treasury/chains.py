"""The chains that this installation runs, by name: one construction for every process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chains.protocol import Chain, ChainName
from chains.signers import Curve, Signer, Signers, UnknownKey
from core.money import ETH, SOL, Currency
from core.settings import Settings

Chains = Mapping[ChainName, Chain]

_NATIVE: Final[dict[ChainName, Currency]] = {ChainName.ETHEREUM: ETH, ChainName.SOLANA: SOL}


def natives(chains: Chains) -> dict[ChainName, Currency]:
    """The asset that each chain charges its fees in; of a chain that is not configured, the usual one."""
    return _NATIVE | {name: chain.native for name, chain in chains.items()}


class NoSigners:
    """For a process that must not sign: it knows no key."""

    async def signer(self, address: str, derivation: int | None = None) -> Signer:
        raise UnknownKey(address)

    async def derive(self, curve: Curve, index: int) -> str:
        raise UnknownKey("a master seed")


def build_chains(settings: Settings, signers: Signers) -> dict[ChainName, Chain]:
    """The chains that are configured. Each holds a client of its node, to be closed by the caller."""
    chains: dict[ChainName, Chain] = {}
    # Imported where they are used: each brings a large library, which an installation may do without.
    if settings.ethereum is not None:
        from chains.ethereum.chain import Ethereum

        chains[ChainName.ETHEREUM] = Ethereum(settings.ethereum, signers)
    if settings.solana is not None:
        from chains.solana.chain import Solana

        chains[ChainName.SOLANA] = Solana(settings.solana, signers)
    return chains
