"""The process dies between every two steps, on both chains, with one payment and with several in a
transaction; another is started, and everybody has been paid once."""

from __future__ import annotations

import pytest

from chains.protocol import ChainName
from core.faults import EXIT_CODE, Point
from sandbox.torture.proxy import SENDING, Fault
from tests.faults import runner
from tests.faults.conftest import Treasury

RENEWAL = {Point.RENEW_PROVEN, Point.RENEW_SIGNED, Point.RENEW_STORED}
BUMPING = {Point.BUMP_SIGNED, Point.BUMP_STORED}
CANCELING = {Point.CANCEL_SIGNED, Point.CANCEL_STORED}
FILLING = {Point.FILL_SIGNED, Point.FILL_STORED}
SWEEPING = {Point.SWEEP_SIGNED, Point.SWEEP_STORED, Point.SWEEP_BOOKED}
INBOUND = SWEEPING | {Point.DEPOSIT_SEEN, Point.DEPOSIT_STORED, Point.DEPOSIT_BOOKED}
ROTATING = {Point.ROTATE_SIGNED, Point.ROTATE_STORED, Point.ROTATE_SWITCHED}
# Where what was sent has to be lost first, so that something is signed in its place.
LOST = RENEWAL | BUMPING | CANCELING
NEVER = {
    (ChainName.ETHEREUM, False): RENEWAL | {Point.PREPARE_STORED},
    (ChainName.ETHEREUM, True): RENEWAL | INBOUND | ROTATING,
    (ChainName.SOLANA, False): BUMPING | CANCELING | FILLING | {Point.PREPARE_STORED},
    (ChainName.SOLANA, True): BUMPING | CANCELING | FILLING | INBOUND | ROTATING | {Point.PREPARE_STORED},
}
CASES = [
    pytest.param(
        chain,
        batched,
        point,
        id=f"{chain}-{'batch' if batched else 'single'}-{point}",
        marks=pytest.mark.xdist_group(f"crash-{chain}"),
    )
    for (chain, batched), never in NEVER.items()
    for point in Point
    if point not in never
]


def test_every_point_is_tried() -> None:
    assert {case.values[2] for case in CASES} == set(Point)


@pytest.mark.parametrize(("chain_name", "batched", "point"), CASES, indirect=["chain_name"])
async def test_everybody_is_paid_once_whatever_point_it_dies_at(
    treasury: Treasury, batched: bool, point: Point
) -> None:
    in_parts = point is Point.SEND_PART
    if batched and point is not Point.PREPARE_STORED:
        await treasury.prepare()
    if point in FILLING:
        await treasury.pay(1)
        await treasury.settled()
        await treasury.lose_a_nonce()
    # Parts are of several transactions, and so of more payments than fit into one.
    ids = await treasury.pay(5 if in_parts else 3 if batched else 1)
    if point in INBOUND:
        await treasury.deposit(at_address=point in SWEEPING)
    if point in ROTATING:
        await treasury.rotate()
    if point in LOST:
        treasury.proxy.plan(Fault.SWALLOWED, *SENDING, times=10_000)
    if point in CANCELING:
        await treasury.cancel()
    assert await runner.run(treasury.job(point, in_parts=in_parts)) == EXIT_CODE, "the point is reached"
    treasury.proxy.behave()
    await treasury.settled(either=ids if point in CANCELING else ())
