"""USDC on Solana: several payouts in one transaction, signed anew only when the old one surely never was."""

from chains.solana.chain import Solana

__all__ = ["Solana"]
