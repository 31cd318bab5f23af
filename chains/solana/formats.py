"""The formats of a Solana transaction: what fits into one, its bytes, and where its compute budget stands.

Legacy and v0 (https://solana.com/docs/core/transactions) put the signatures first and the budget into
instructions, and have 1,232 bytes. v1 (SIMD-0385) begins with the byte 129, states the budget in its head, as
the whole fee in lamports, ends with the signatures, and has 4,096 bytes and 64 addresses. A transaction of
ours has one signature, a sweep of a deposit address two.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from solders.compute_budget import ID as COMPUTE_BUDGET_PROGRAM
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import CompiledInstruction, Instruction
from solders.message import (
    Message,
    MessageV0,
    MessageV1,
    TransactionConfig,
    from_bytes_versioned,
    to_bytes_versioned,
)
from solders.pubkey import Pubkey

# lamports; one signature a transaction
SIGNATURE_FEE: Final = 5_000
MAX_COMPUTE_UNITS: Final = 1_400_000
# bytes of accounts and programs that a transaction may load at the most
MAX_LOADED: Final = 64 * 1024 * 1024
SIGNATURE_SIZE: Final = 64
V1_PREFIX: Final = 129

_SET_LIMIT: Final = 2
_SET_PRICE: Final = 3
_MICRO: Final = 1_000_000

Compiled = Message | MessageV0 | MessageV1


class Format(StrEnum):
    """V0 is LEGACY with a version and a list of lookup tables, of which ours has none."""

    LEGACY = "legacy"
    V0 = "v0"
    V1 = "v1"

    @property
    def max_size(self) -> int:
        """Bytes, the signature included. 1,232 is IPv6's least MTU less headers (PACKET_DATA_SIZE)."""
        return 4_096 if self is Format.V1 else 1_232

    def head(self) -> int:
        """Bytes of everything but addresses and instructions: signature, header, counts, block hash, and what
        the format has beside them."""
        common = SIGNATURE_SIZE + 3 + 32 + 1 + 1
        # Count of signatures; and version and count of tables; or version, mask, fee and two limits.
        return common + {Format.LEGACY: 1, Format.V0: 1 + 2, Format.V1: 1 + 4 + 8 + 4 + 4}[self]

    def instruction(self, accounts: int, data: int) -> int:
        """Bytes of an instruction with so many accounts and bytes of data."""
        if self is Format.V1:
            return 4 + accounts + data
        return 1 + _length(accounts) + accounts + _length(data) + data

    def budget_instructions(self) -> tuple[int, ...]:
        """The data lengths of the instructions that set limit and price."""
        return () if self is Format.V1 else (5, 9)


# Addresses and instructions of a transaction; those of programs that its programs call count as well.
MAX_ADDRESSES: Final = 64
MAX_INSTRUCTIONS: Final = 64
# Accounts of one instruction of a v1 transaction.
MAX_ACCOUNTS: Final = 255


@dataclass(frozen=True, slots=True)
class Budget:
    """What a transaction may use and offers: compute units, micro-lamports for each, and, in v1 alone, bytes
    of accounts that are loaded."""

    units: int
    price: int
    loaded: int = MAX_LOADED

    @property
    def priority(self) -> int:
        """Lamports beside the signature's, rounded up."""
        return -(-self.units * self.price // _MICRO)


def budget_instructions(format: Format, budget: Budget) -> list[Instruction]:
    """What has to stand before all other instructions for `budget` to hold; nothing in v1."""
    if format is Format.V1:
        return []
    steps = [set_compute_unit_limit(budget.units)]
    if budget.price:
        steps.append(set_compute_unit_price(budget.price))
    return steps


def compiled(
    format: Format, payer: Pubkey, instructions: Sequence[Instruction], blockhash: Hash, budget: Budget
) -> Compiled:
    """The message to sign. A size beyond the format's is a bug of the packing and refused."""
    made: Compiled
    steps = list(instructions)
    if format is Format.LEGACY:
        made = Message.new_with_blockhash(steps, payer, blockhash)
    elif format is Format.V0:
        made = MessageV0.try_compile(payer, steps, [], blockhash)
    else:
        made = MessageV1.try_compile(
            payer, steps, blockhash, TransactionConfig(budget.priority, budget.units, budget.loaded)
        )
    size = len(unsigned(made))
    assert size <= format.max_size, f"a transaction of {size} bytes was packed, not {format.max_size}"
    return made


def payload(made: Compiled) -> bytes:
    """What the key signs."""
    return bytes(to_bytes_versioned(made))


def signed(made: Compiled, signature: bytes) -> bytes:
    """The bytes to send."""
    if isinstance(made, MessageV1):
        return payload(made) + signature
    return b"\x01" + signature + payload(made)


def signed_by(made: Compiled, signatures: Sequence[bytes]) -> bytes:
    """The bytes to send of a message, not of v1, that wants several signatures."""
    assert not isinstance(made, MessageV1), "only sweeps have two signatures, and they are legacy"
    return bytes([len(signatures)]) + b"".join(signatures) + payload(made)


def unsigned(made: Compiled) -> bytes:
    """The transaction with an empty signature, as simulation takes it."""
    return signed(made, bytes(SIGNATURE_SIZE))


def read(raw: bytes) -> Compiled:
    """The message of signed bytes."""
    if raw[0] == V1_PREFIX:
        return from_bytes_versioned(raw[:-SIGNATURE_SIZE])
    assert raw[0] in (1, 2), "a transaction of ours has one signature, a sweep two"
    return from_bytes_versioned(raw[1 + raw[0] * SIGNATURE_SIZE :])


def fee(made: Compiled) -> int:
    """The most that the network may charge for it, in lamports."""
    if isinstance(made, MessageV1):
        return SIGNATURE_FEE + (made.config.priority_fee or 0)
    return made.header.num_required_signatures * SIGNATURE_FEE + _stated(made).priority


def renewed(raw: bytes, blockhash: Hash, price: int) -> Compiled:
    """The message of signed bytes with another block hash and, where it is higher, another price: the same
    payments, the same memo. It is a *second valid payment* until the first can no longer be mined."""
    old = read(raw)
    assert old.recent_blockhash != blockhash, "a renewed transaction needs another block hash"
    if isinstance(old, MessageV1):
        units = old.config.compute_unit_limit or 0
        offered = max(old.config.priority_fee or 0, Budget(units, price).priority)
        config = TransactionConfig(offered, units, old.config.loaded_accounts_data_size_limit)
        return MessageV1(old.header, config, blockhash, old.account_keys, old.instructions)
    instructions = old.instructions
    # What has no budget moves all but the least fee, and cannot offer more.
    if COMPUTE_BUDGET_PROGRAM in old.account_keys:
        instructions = _repriced(instructions, old.account_keys.index(COMPUTE_BUDGET_PROGRAM), price)
    if isinstance(old, MessageV0):
        return MessageV0(old.header, old.account_keys, blockhash, instructions, old.address_table_lookups)
    return Message.new_with_compiled_instructions(
        old.header.num_required_signatures,
        old.header.num_readonly_signed_accounts,
        old.header.num_readonly_unsigned_accounts,
        old.account_keys,
        blockhash,
        instructions,
    )


def _repriced(steps: Sequence[CompiledInstruction], program: int, price: int) -> list[CompiledInstruction]:
    """Instructions of a message that offer at least `price`; `program` is the compute budget's index."""
    raised = CompiledInstruction(program, set_compute_unit_price(price).data, b"")
    offers = [_price(step, program) for step in steps]
    repriced = [
        raised if offer is not None and offer < price else step
        for step, offer in zip(steps, offers, strict=True)
    ]
    if price and all(offer is None for offer in offers):
        repriced.insert(0, raised)
    return repriced


def _stated(made: Message | MessageV0) -> Budget:
    """The budget that a message's instructions set."""
    limit = price = 0
    for step in made.instructions:
        if made.account_keys[step.program_id_index] == COMPUTE_BUDGET_PROGRAM:
            if step.data[0] == _SET_LIMIT:
                limit = struct.unpack_from("<I", step.data, 1)[0]
            elif step.data[0] == _SET_PRICE:
                price = struct.unpack_from("<Q", step.data, 1)[0]
    return Budget(limit, price)


def _price(step: CompiledInstruction, program: int) -> int | None:
    if step.program_id_index != program or step.data[0] != _SET_PRICE:
        return None
    return int(struct.unpack_from("<Q", step.data, 1)[0])


def _length(count: int) -> int:
    """Bytes that a length takes (compact-u16)."""
    return 1 if count < 1 << 7 else 2
