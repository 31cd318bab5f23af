"""What is offered for gas, by urgency, and what displaces an offer in a node's pool."""

from __future__ import annotations

from typing import Any

import pytest

from chains.ethereum.fees import Fees, FeesTooHigh, highest, offers, replacement
from chains.protocol import ChainUnavailable, Urgency
from core.settings import EthereumSettings

LOW, NORMAL, HIGH = Urgency.LOW, Urgency.NORMAL, Urgency.HIGH
SETTINGS = EthereumSettings(
    rpc_url="http://node",
    chain_id=1,
    usdc="0x",
    priority_fee_wei=7,
    max_priority_fee_wei=50,
    max_fee_wei=1_000,
)


def history(base: int, *rewards: tuple[int, int, int]) -> dict[str, Any]:
    return {"baseFeePerGas": ["0x1", hex(base)], "reward": [[hex(tip) for tip in block] for block in rewards]}


def test_urgency_chooses_the_share_of_the_base_fee_and_the_tip() -> None:
    blocks = [(1, 2, 3), (10, 20, 30), (11, 21, 900)]
    assert offers(history(100, *blocks), SETTINGS) == {
        LOW: Fees(125 + 10, 10),
        NORMAL: Fees(200 + 20, 20),
        HIGH: Fees(300 + 30, 30),
    }


def test_the_tip_has_bounds_of_its_own_whatever_the_node_tells() -> None:
    offered = offers(history(100, (0, 50, 10**18)), SETTINGS)
    assert [offered[one].tip for one in (LOW, NORMAL, HIGH)] == [7, 50, 50]
    assert offers({"baseFeePerGas": ["0x64"]}, SETTINGS)[NORMAL] == Fees(207, 7)


def test_nothing_is_offered_above_the_cap() -> None:
    offered = offers(history(600, (9, 9, 9)), SETTINGS)
    assert [offered[one].max_fee for one in (LOW, NORMAL, HIGH)] == [759, 1_000, 1_000]
    with pytest.raises(FeesTooHigh):
        offers(history(1_000), SETTINGS)


@pytest.mark.parametrize(
    "answer", [{}, None, {"baseFeePerGas": []}, {"baseFeePerGas": ["0x1"], "reward": [["0x1"]]}]
)
def test_a_history_that_cannot_be_read_is_no_offer(answer: Any) -> None:
    with pytest.raises(ChainUnavailable):
        offers(answer, SETTINGS)


@pytest.mark.parametrize("percentiles", [[50, 20, 90], [20, 50], [-1, 50, 90], [1, 50, 101]])
def test_percentiles_that_a_node_would_refuse_are_refused(percentiles: list[float]) -> None:
    with pytest.raises(ValueError, match="fee_percentiles"):
        EthereumSettings(rpc_url="http://node", chain_id=1, usdc="0x", fee_percentiles=percentiles)


def test_a_batch_is_as_urgent_as_the_most_urgent_in_it() -> None:
    assert [highest(one) for one in ([], [LOW], [LOW, NORMAL], [NORMAL, HIGH, LOW])] == [
        NORMAL,
        LOW,
        NORMAL,
        HIGH,
    ]


@pytest.mark.parametrize(
    ("old", "offered", "cap", "new"),
    [
        (Fees(80, 8), Fees(10, 1), 1_000, Fees(90, 9)),
        (Fees(80, 8), Fees(500, 20), 1_000, Fees(500, 20)),
        (Fees(80, 0), Fees(10, 0), 1_000, Fees(90, 1)),
        (Fees(1, 1), Fees(1, 1), 1_000, Fees(2, 2)),
        (Fees(900, 8), Fees(100, 1), 1_000, Fees(1_000, 9)),
        (Fees(900, 900), Fees(100, 1), 1_000, Fees(1_000, 1_000)),
        (Fees(910, 8), Fees(100, 1), 1_000, None),
        (Fees(1_000, 8), Fees(100, 1), 1_000, None),
    ],
)
def test_what_replaces_an_offer_is_a_tenth_higher_in_both_and_within_the_cap(
    old: Fees, offered: Fees, cap: int, new: Fees | None
) -> None:
    assert replacement(old, offered, cap) == new
    if new is not None:
        assert new.max_fee * 10 >= old.max_fee * 11
        assert new.tip * 10 >= old.tip * 11
        assert new.tip > old.tip
