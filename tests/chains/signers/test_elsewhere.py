"""Keys in AWS KMS and in Vault, behind servers that speak their protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator

import coincurve
import pytest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr
from solders.pubkey import Pubkey
from solders.signature import Signature

from chains.ethereum.fees import Fees
from chains.ethereum.transactions import Call, sign_calls
from chains.protocol import ChainName, TransactionKind
from chains.signers import Purpose, SignerUnavailable, SigningRequest, UnknownKey, vault
from chains.signers.kms import Kms, recoverable
from chains.signers.local import address_of_point
from chains.signers.vault import Vault
from tests.chains.signers.asked import asked, transfer
from tests.chains.signers.servers import KmsServer, VaultServer

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
MANY = 40


@pytest.fixture
async def kms() -> AsyncIterator[tuple[KmsServer, Kms, str]]:
    server = KmsServer("eu-central-1", ACCESS, SECRET)
    key = server.keys["k1"] = coincurve.PrivateKey()
    with server.running():
        client = Kms("eu-central-1", server.url, 5, Credentials(ACCESS, SECRET))
        yield server, client, address_of_point(key.public_key.format(compressed=False))
        await client.close()


async def test_a_key_of_kms_signs_with_a_low_s_and_a_parity_that_is_right(
    kms: tuple[KmsServer, Kms, str],
) -> None:
    server, client, address = kms
    signer = await client.signer(address, "alias/k1")
    calls = [
        (Call(nonce, address, transfer(), 100_000), Purpose("ctx_1", TransactionKind.TRANSFER))
        for nonce in range(MANY)
    ]
    # Verified there: recovered to the address, s in the lower half.
    signed = await sign_calls(signer, 1, Fees(10, 1), calls)
    assert len({one.hash for one in signed}) == MANY
    assert 0 < server.high < MANY
    # Not of the alias, behind which the key may change.
    assert {asked["KeyId"] for operation, asked in server.heard if operation == "Sign"} == {
        "arn:aws:kms:eu-central-1:111122223333:key/k1"
    }


async def test_a_key_of_kms_that_is_another_is_not_used(kms: tuple[KmsServer, Kms, str]) -> None:
    server, client, address = kms
    server.keys["k2"] = coincurve.PrivateKey()
    with pytest.raises(UnknownKey):
        await client.signer(address, "k2")
    server.spec = "ECC_NIST_P256"
    with pytest.raises(UnknownKey):
        await client.signer(address, "k1")


async def test_what_kms_refuses_is_told_by_its_name_alone(kms: tuple[KmsServer, Kms, str]) -> None:
    server, client, address = kms
    signer = await client.signer(address, "k1")
    server.keys["k1"] = coincurve.PrivateKey()
    with pytest.raises(SignerUnavailable, match="no signature of this key"):
        await signer.sign(asked(b"\x02"))
    server.breaks = (400, {"__type": "com.amazonaws.kms#ThrottlingException", "message": "x" * 5_000})
    with pytest.raises(SignerUnavailable, match=r"^KMS refused Sign: ThrottlingException$"):
        await signer.sign(asked(b"\x02"))
    stranger = Kms("eu-central-1", server.url, 5, Credentials(ACCESS, "another"))
    with pytest.raises(SignerUnavailable, match="InvalidSignatureException"):
        await stranger.signer(address, "k1")
    await stranger.close()


def test_a_signature_of_another_key_has_no_parity() -> None:
    key, other = coincurve.PrivateKey(), coincurve.PrivateKey()
    with pytest.raises(ValueError, match="another key"):
        recoverable(key.sign(bytes(32), hasher=None), bytes(32), other.public_key.format(compressed=False))


def address_of(key: Ed25519PrivateKey) -> str:
    return str(Pubkey.from_bytes(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)))


def message(number: int) -> SigningRequest:
    return asked(f"message {number}".encode(), chain=ChainName.SOLANA)


@pytest.fixture
async def transit() -> AsyncIterator[tuple[VaultServer, Vault, list[str]]]:
    server = VaultServer()
    keys = server.keys["treasury"] = [Ed25519PrivateKey.generate() for _ in range(2)]
    with server.running():
        client = Vault(server.url, SecretStr(server.token), "transit", 5)
        yield server, client, [address_of(key) for key in keys]
        await client.close()


async def test_a_key_of_vault_signs_with_the_version_that_is_pinned(
    transit: tuple[VaultServer, Vault, list[str]],
) -> None:
    server, client, addresses = transit
    for version, address in enumerate(addresses, 1):
        signer = await client.signer(address, "treasury", version)
        requests = [message(number) for number in range(MANY)]
        for request, signature in zip(requests, await signer.sign_many(requests), strict=True):
            assert Signature.from_bytes(signature).verify(Pubkey.from_string(address), request.unsigned)
    signings = [place for place, _ in server.heard if "/sign/" in place]
    assert signings == ["POST /v1/transit/sign/treasury"] * 2


async def test_a_key_of_vault_that_cannot_sign_here_is_refused_by_the_name_of_its_type(
    transit: tuple[VaultServer, Vault, list[str]],
) -> None:
    server, client, addresses = transit
    with pytest.raises(UnknownKey):
        await client.signer(addresses[0], "treasury", 2)
    with pytest.raises(UnknownKey, match="no version 3"):
        await client.signer(addresses[0], "treasury", 3)
    server.type = "ecdsa-p256"
    with pytest.raises(UnknownKey, match="of type ecdsa-p256, not ed25519"):
        await client.signer(addresses[0], "treasury", 1)


async def test_what_vault_answers_is_verified_and_its_refusals_are_told(
    transit: tuple[VaultServer, Vault, list[str]],
) -> None:
    server, client, addresses = transit
    signer = await client.signer(addresses[0], "treasury", 1)
    server.altered = True
    with pytest.raises(SignerUnavailable, match="no signature of this key"):
        await signer.sign(message(1))
    server.token = "another"
    with pytest.raises(SignerUnavailable, match="403"):
        await signer.sign(message(1))


async def test_the_token_is_renewed_before_its_life_is_over(
    transit: tuple[VaultServer, Vault, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client, addresses = transit
    server.ttl = 3600
    clock = [1_000.0]
    monkeypatch.setattr(vault.time, "monotonic", lambda: clock[0])
    signer = await client.signer(addresses[0], "treasury", 1)
    for seconds in (0, 1_700, 200, 1_700, 200):
        clock[0] += seconds
        await signer.sign(message(1))
    assert [place.rpartition("/")[2] for place, _ in server.heard if "/auth/" in place] == [
        "lookup-self",
        "renew-self",
        "renew-self",
    ]
