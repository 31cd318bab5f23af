"""Test vectors of BIP-32 (vectors 1 and 2) and SLIP-0010 (ed25519, vector 2), and the keystore's own keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from chains.signers import Curve, UnknownKey
from chains.signers.derivation import by_bip32, by_slip10, derived
from chains.signers.keystore import Keystore

SHORT = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
LONG = bytes.fromhex(
    "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a29f9c999693908d8a8784817e7b7875726f6c6966"
    "63605d5a5754514e4b484542"
)


@pytest.mark.parametrize(
    ("seed", "path", "key"),
    [
        (SHORT, "m/0'", "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea"),
        (SHORT, "m/0'/1", "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368"),
        (SHORT, "m/0'/1/2'", "cbce0d719ecf7431d88e6a89fa1483e02e35092af60c042b1df2ff59fa424dca"),
        (LONG, "m/0", "abe74a98f6c7eabee0428f53798f0ab8aa1bd37873999041703c742f15ac7e1e"),
    ],
)
def test_keys_of_secp256k1_are_those_of_bip32(seed: bytes, path: str, key: str) -> None:
    assert by_bip32(seed, path).hex() == key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("m/0'", "1559eb2bbec5790b0c65d8693e4d0875b1747f4970ae8b650486ed7470845635"),
        ("m/0'/2147483647'", "ea4f5bfe8694d8bb74b7b59404632fd5968b774ed545e810de9c32a4fb4192f4"),
        ("m/0'/2147483647'/1'", "3757c7577170179c7868353ada796c839135b3d30554bbb74a4b1e4a5a58505c"),
    ],
)
def test_keys_of_ed25519_are_those_of_slip_0010(path: str, key: str) -> None:
    assert by_slip10(LONG, path).hex() == key


@pytest.mark.parametrize("curve", list(Curve))
async def test_a_derived_key_is_the_same_after_a_restart_and_another_at_every_index(
    tmp_path: Path, curve: Curve
) -> None:
    keystore = Keystore(tmp_path, "of a test", scrypt_n=2)
    with pytest.raises(UnknownKey):
        await keystore.derive(curve, 0)
    keystore.create_seed()
    addresses = [await keystore.derive(curve, index) for index in (0, 1, 2**31 - 1)]
    assert len(set(addresses)) == 3
    again = Keystore(tmp_path, "of a test", scrypt_n=2)
    assert [await again.derive(curve, index) for index in (0, 1, 2**31 - 1)] == addresses
    assert (await again.signer(addresses[1], 1)).address == addresses[1]
    with pytest.raises(UnknownKey):
        await again.signer(addresses[1], 2)
    with pytest.raises(FileExistsError):
        keystore.create_seed()
    for index in (-1, 2**31):
        with pytest.raises(ValueError, match="index"):
            derived(curve, bytes(64), index)
