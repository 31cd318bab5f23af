"""The chains that an installation runs, by name."""

from __future__ import annotations

from collections.abc import Mapping

from chains.solana.chain import Solana

from chains.ethereum.chain import Ethereum
from chains.protocol import Chain, ChainName
from chains.signers import Signer, Signers, UnknownKey
from core.settings import Settings

Chains = Mapping[ChainName, Chain]


class NoSigners:
    """For a process that reads chains and checks addresses, and must hold no key."""

    async def signer(self, address: str) -> Signer:
        raise UnknownKey(address)


def build_chains(settings: Settings, signers: Signers) -> dict[ChainName, Chain]:
    """Every chain that is configured. Asks no node."""
    chains: dict[ChainName, Chain] = {}
    if settings.ethereum is not None:
        chains[ChainName.ETHEREUM] = Ethereum(settings.ethereum, signers)
    if settings.solana is not None:
        chains[ChainName.SOLANA] = Solana(settings.solana, signers)
    return chains
