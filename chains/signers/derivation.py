"""Keys that are derived from one master seed, all of their path hardened.

SECP256K1 by BIP-32 at m/44'/60'/0'/0'/index', ED25519 by SLIP-0010 at m/44'/501'/index'/0' (BIP-44, with the
coins' numbers of SLIP-0044). Hardened to the end: a key that gets out leads to no other, whatever is known of
the keys above it.
"""

from __future__ import annotations

from typing import Final

from solders.keypair import Keypair

from chains.signers import Curve

SEED_SIZE: Final = 64
MOST: Final = 2**31


def derived(curve: Curve, seed: bytes, index: int) -> bytes:
    """The 32 bytes of the key at `index`. Raises `ValueError` for an index that there is not."""
    if not 0 <= index < MOST:
        raise ValueError("an index is from 0 to 2^31 - 1")
    if curve is Curve.SECP256K1:
        return by_bip32(seed, f"m/44'/60'/0'/0'/{index}'")
    return by_slip10(seed, f"m/44'/501'/{index}'/0'")


def by_bip32(seed: bytes, path: str) -> bytes:
    """The private key of SECP256K1 at a path."""
    # Imported where it is used: it brings a large library.
    from eth_account.hdaccount.deterministic import HDPath

    return bytes(HDPath(path).derive(seed))


def by_slip10(seed: bytes, path: str) -> bytes:
    """The private key of ED25519 at a path."""
    return Keypair.from_seed_and_derivation_path(seed, path).secret()
