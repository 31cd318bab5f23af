"""USDC on Ethereum: payouts one by one, or in batches from a delegated account (EIP-7702)."""

from chains.ethereum.chain import Ethereum

__all__ = ["Ethereum"]
