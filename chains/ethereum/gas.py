"""Gas, and what a chain charges beside it.

On OP-stack chains (Base, OP Mainnet) a transaction also pays for its data on layer 1, as `l1Fee` of its
receipt, and an operator fee where there is one. On Arbitrum the data is part of the gas. Sources:
https://specs.optimism.io/protocol/exec-engine.html, https://specs.optimism.io/protocol/jovian/exec-engine.html,
https://docs.arbitrum.io/arbitrum-essentials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from eth_utils.crypto import keccak

from chains.ethereum.rpc import Call, Rpc, RpcError, octets, quantity
from chains.ethereum.transactions import GAS_CAP
from core.settings import EthereumSettings

# The predeploy of every OP-stack chain that tells what the data of a transaction costs.
_ORACLE: Final = "0x420000000000000000000000000000000000000F"
_DATA_FEE: Final = keccak(b"getL1FeeUpperBound(uint256)")[:4]
_OPERATOR_FEE: Final = keccak(b"getOperatorFee(uint256)")[:4]
# What surrounds the data of a transaction: its other fields, without a signature.
_ENVELOPE: Final = 120
# For code that the account may delegate to until the transaction is mined.
_DELEGATED: Final = 10_000
_REVERTED: Final = 100_000


async def self_transfer_gas(rpc: Rpc, address: str) -> int:
    """A gas limit for a call of the address to itself with nothing; on Arbitrum it holds the data's share.
    A call that is going to be reverted, by code that the account delegates to, uses up a nonce as well.
    Raises `ChainUnavailable`."""
    call = {"from": address, "to": address, "value": "0x0", "data": "0x"}
    (estimate,) = await rpc.batch([("eth_estimateGas", [call])])
    if isinstance(estimate, RpcError):
        return _REVERTED
    return min(quantity(estimate) * 5 // 4 + _DELEGATED, GAS_CAP)


async def gas_for(rpc: Rpc, settings: EthereumSettings, address: str, execution: int) -> int:
    """A gas limit for what takes no more than `execution`, with the data's share where gas pays for data
    (`transfer_gas` 0). Raises `ChainUnavailable`."""
    if settings.transfer_gas:
        return execution
    return min(execution + await self_transfer_gas(rpc, address), GAS_CAP)


def charged(receipt: Mapping[str, Any]) -> int:
    """All that a mined transaction cost, in wei. Raises `KeyError`, or `ChainUnavailable`."""
    gas = quantity(receipt["gasUsed"])
    data = _optional(receipt, "l1Fee")
    scalar, constant = _optional(receipt, "operatorFeeScalar"), _optional(receipt, "operatorFeeConstant")
    # The Jovian upgrade changed what the scalar means; its receipts carry this field.
    jovian = receipt.get("daFootprintGasScalar") is not None
    operator = (gas * scalar * 100 if jovian else gas * scalar // 10**6) + constant
    return gas * quantity(receipt["effectiveGasPrice"]) + data + operator


def _optional(receipt: Mapping[str, Any], name: str) -> int:
    return 0 if receipt.get(name) is None else quantity(receipt[name])


class DataFees:
    """What the chain charges for data on layer 1; whether it does is found out once."""

    def __init__(self) -> None:
        self._charged: bool | None = None

    async def most(self, rpc: Rpc, transactions: Sequence[tuple[int, int]]) -> list[int]:
        """The most, in wei, that each transaction, of so many bytes of data and so much gas, is going to pay
        beside its gas: a quarter more than now. Nothing where the chain charges none, or does not say.
        Raises `ChainUnavailable`."""
        if self._charged is None:
            self._charged = bool(octets(await rpc.call("eth_getCode", _ORACLE, "latest")))
        if not self._charged or not transactions:
            return [0] * len(transactions)
        distinct = sorted(set(transactions))
        answers = await rpc.batch(
            [
                _ask(selector, number)
                for data, gas in distinct
                for selector, number in ((_DATA_FEE, data + _ENVELOPE), (_OPERATOR_FEE, gas))
            ]
        )
        fees = [0 if isinstance(answer, RpcError) else int.from_bytes(octets(answer)) for answer in answers]
        most = {one: (fees[2 * place] + fees[2 * place + 1]) * 5 // 4 for place, one in enumerate(distinct)}
        return [most[one] for one in transactions]


def _ask(selector: bytes, number: int) -> Call:
    return "eth_call", [{"to": _ORACLE, "data": "0x" + (selector + number.to_bytes(32)).hex()}, "latest"]
