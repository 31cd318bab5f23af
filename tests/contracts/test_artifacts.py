"""The committed artifacts load, and say what the rest of the house relies on."""

import pytest
from eth_utils.abi import function_signature_to_4byte_selector

import contracts


@pytest.mark.parametrize("name", ["TestUSDC", "USDCProxy", "BatchPayout"])
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
