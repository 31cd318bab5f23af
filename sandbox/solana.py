"""USDC on the sandbox's Solana: a plain SPL token of six decimals whose authorities are ours, or one of
Token-2022 with extensions.

Amounts are in the smallest unit: 1 USDC is 1,000,000 and 1 SOL is 1,000,000,000 lamports.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import Transaction
from spl.token import instructions as token
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.models import (
    FreezeAccountParams,
    InitializeMintParams,
    MintToCheckedParams,
    ThawAccountParams,
)

from sandbox import jsonrpc

DECIMALS = 6
MINT_SIZE = 82
# A mint of Token-2022 that has extensions begins as long as an account, and has its type after that.
EXTENDED_SIZE = 166
CONFIRM_SECONDS = 30
MINTS_IN_A_TRANSACTION = 7
_CONFIRMED = {"commitment": "confirmed", "encoding": "base64"}


@dataclass(frozen=True)
class Mint:
    """A token on a running validator. `authority` mints, freezes and pays for it."""

    rpc_url: str
    address: Pubkey
    authority: Keypair = field(repr=False)
    program: Pubkey = TOKEN_PROGRAM_ID

    def account_of(self, owner: Pubkey) -> Pubkey:
        """The owner's associated token account."""
        return token.get_associated_token_address(owner, self.address, self.program)

    async def mint_to(self, owner: Pubkey, amount: int) -> str:
        """Mint to the owner's associated token account, creating it if need be; the confirmed signature."""
        return await send(self.rpc_url, self._minting(owner, amount), self.authority)

    async def open(self, owner: Pubkey) -> str:
        """Open the owner's associated token account."""
        return await send(self.rpc_url, self._minting(owner, 0)[:1], self.authority)

    async def mint_to_many(self, amounts: Sequence[tuple[Pubkey, int]]) -> None:
        """The same for many owners, several in one transaction."""
        for start in range(0, len(amounts), MINTS_IN_A_TRANSACTION):
            part = amounts[start : start + MINTS_IN_A_TRANSACTION]
            steps = [step for owner, amount in part for step in self._minting(owner, amount)]
            await send(self.rpc_url, steps, self.authority)

    async def freeze(self, owner: Pubkey) -> str:
        """Freeze the owner's token account, as Circle does: it neither sends nor receives until thawed."""
        return await send(
            self.rpc_url,
            [
                token.freeze_account(
                    FreezeAccountParams(
                        program_id=self.program,
                        account=self.account_of(owner),
                        mint=self.address,
                        authority=self.authority.pubkey(),
                    )
                )
            ],
            self.authority,
        )

    async def thaw(self, owner: Pubkey) -> str:
        """Undo a freeze."""
        return await send(
            self.rpc_url,
            [
                token.thaw_account(
                    ThawAccountParams(
                        program_id=self.program,
                        account=self.account_of(owner),
                        mint=self.address,
                        authority=self.authority.pubkey(),
                    )
                )
            ],
            self.authority,
        )

    async def balance_of(self, owner: Pubkey) -> int:
        """The confirmed balance of the owner's associated token account; 0 when there is none."""
        try:
            answer = await jsonrpc.call(
                self.rpc_url,
                "getTokenAccountBalance",
                str(self.account_of(owner)),
                _CONFIRMED,
            )
        except jsonrpc.RpcError as error:
            if error.code == -32602:
                return 0
            raise
        return int(answer["value"]["amount"])

    def _minting(self, owner: Pubkey, amount: int) -> list[Instruction]:
        payer = self.authority.pubkey()
        return [
            token.create_idempotent_associated_token_account(payer, owner, self.address, self.program),
            token.mint_to_checked(
                MintToCheckedParams(
                    program_id=self.program,
                    mint=self.address,
                    dest=self.account_of(owner),
                    mint_authority=payer,
                    amount=amount,
                    decimals=DECIMALS,
                )
            ),
        ]


@dataclass(frozen=True)
class Extension:
    """An extension of a mint: the bytes of its value, and the data of the instruction that sets it up."""

    size: int
    data: bytes


async def create_mint(
    rpc_url: str,
    authority: Keypair,
    address: Keypair | None = None,
    extensions: Sequence[Extension] | None = None,
) -> Mint:
    """Fund `authority` and create a token which it mints and freezes, at a fresh address unless one is given;
    a plain one, or with `extensions`, of which there may be none, one of Token-2022.

    A token that is there already is left as it is.
    """
    mint = address or Keypair()
    program = TOKEN_PROGRAM_ID if extensions is None else TOKEN_2022_PROGRAM_ID
    if (await jsonrpc.call(rpc_url, "getAccountInfo", str(mint.pubkey()), _CONFIRMED))["value"] is not None:
        return Mint(rpc_url, mint.pubkey(), authority, program)
    await airdrop(rpc_url, authority.pubkey(), 1_000 * 10**9)
    size = EXTENDED_SIZE + sum(4 + one.size for one in extensions) if extensions else MINT_SIZE
    rent = await jsonrpc.call(rpc_url, "getMinimumBalanceForRentExemption", size)
    writable = [AccountMeta(mint.pubkey(), is_signer=False, is_writable=True)]
    await send(
        rpc_url,
        [
            create_account(
                CreateAccountParams(
                    from_pubkey=authority.pubkey(),
                    to_pubkey=mint.pubkey(),
                    lamports=rent,
                    space=size,
                    owner=program,
                )
            ),
            *(Instruction(program, one.data, writable) for one in extensions or ()),
            token.initialize_mint(
                InitializeMintParams(
                    decimals=DECIMALS,
                    program_id=program,
                    mint=mint.pubkey(),
                    mint_authority=authority.pubkey(),
                    freeze_authority=authority.pubkey(),
                )
            ),
        ],
        authority,
        mint,
    )
    return Mint(rpc_url, mint.pubkey(), authority, program)


async def airdrop(rpc_url: str, address: Pubkey, lamports: int) -> None:
    """Add lamports to an address and wait until they are confirmed."""
    signature = await jsonrpc.call(rpc_url, "requestAirdrop", str(address), lamports)
    await _confirmed(rpc_url, signature)


async def send(rpc_url: str, instructions: Sequence[Instruction], payer: Keypair, *others: Keypair) -> str:
    """Sign, send and wait for confirmation; raises `jsonrpc.RpcError` if it is refused or fails."""
    latest = await jsonrpc.call(rpc_url, "getLatestBlockhash", _CONFIRMED)
    blockhash = Hash.from_string(latest["value"]["blockhash"])
    message = Message.new_with_blockhash(instructions, payer.pubkey(), blockhash)
    raw = base64.b64encode(bytes(Transaction([payer, *others], message, blockhash))).decode()
    signature: str = await jsonrpc.call(
        rpc_url, "sendTransaction", raw, {"encoding": "base64", "preflightCommitment": "confirmed"}
    )
    await _confirmed(rpc_url, signature)
    return signature


async def _confirmed(rpc_url: str, signature: str) -> None:
    async with asyncio.timeout(CONFIRM_SECONDS):
        while True:
            answer = await jsonrpc.call(rpc_url, "getSignatureStatuses", [signature])
            status = answer["value"][0]
            if status is not None and status["err"] is not None:
                raise jsonrpc.RpcError("sendTransaction", -32002, f"{signature} failed", status["err"])
            if status is not None and status["confirmationStatus"] in ("confirmed", "finalized"):
                return
            await asyncio.sleep(0.02)
