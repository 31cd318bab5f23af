"""The committed artifacts load, and say what the rest of the house relies on."""

import pytest
from eth_utils.abi import function_signature_to_4byte_selector

import contracts


@pytest.mark.parametrize("name", ["TestUSDC", "USDCProxy", "BatchPayout", "AllowancePayout"])
def test_an_artifact_holds_interface_and_both_kinds_of_code(name: str) -> None:
    artifact = contracts.load(name)
    assert artifact.name == name
    assert {entry["type"] for entry in artifact.abi} >= {"function"}
    assert len(artifact.bytecode) > len(artifact.runtime) > 0


def test_an_artifact_is_read_once() -> None:
    assert contracts.load("BatchPayout") is contracts.load("BatchPayout")


def test_an_unknown_contract_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        contracts.load("Nothing")


@pytest.mark.parametrize("signature", ["pay(bytes32,address,bytes)", "batchPaid(bytes32)"])
def test_the_payout_code_answers_to_its_calls(signature: str) -> None:
    assert contracts.load("BatchPayout").runtime.find(function_signature_to_4byte_selector(signature)) > 0


@pytest.mark.parametrize("signature", ["pay(bytes32,address,bytes)", "batchPaid(address,bytes32)"])
def test_the_contract_for_allowances_answers_to_its_calls(signature: str) -> None:
    assert contracts.load("AllowancePayout").runtime.find(function_signature_to_4byte_selector(signature)) > 0


def test_the_contract_for_allowances_runs_on_chains_as_old_as_the_merge() -> None:
    assert _operations(contracts.load("BatchPayout").runtime) & _NEWER
    assert not _operations(contracts.load("AllowancePayout").runtime) & _NEWER


# BLOBHASH, BLOBBASEFEE, TLOAD, TSTORE, MCOPY and PUSH0.
_NEWER = {0x49, 0x4A, 0x5C, 0x5D, 0x5E, 0x5F}


def _operations(code: bytes) -> set[int]:
    found, at = set(), 0
    while at < len(code):
        found.add(code[at])
        at += 1 + (code[at] - 0x5F if 0x60 <= code[at] <= 0x7F else 0)
    return found
