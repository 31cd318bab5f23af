"""Each type of monitor fires exactly when it should, once for an episode, and not at the boundary below."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import asyncpg
import pytest

from core.database import Database, listen_url
from core.money import MAX_UNITS
from ledger.monitors.alerts import raise_alerts
from ledger.monitors.models import MonitorType
from ledger.monitors.parameters import BalanceThreshold, checked
from ledger.monitors.sights import Hit, WatchedAccount
from ledger.monitors.watching import WATCHER, _look
from ledger.monitors.windows import Window
from ledger.tail import follow
from sandbox.schema import DatabaseUrls
from tests.ledger.monitoring import START, Books

HOUR = 3600


@pytest.fixture
async def owner(urls: DatabaseUrls) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(listen_url(urls.owner))
    yield connection
    await connection.close()


@pytest.fixture
async def books(app_database: Database, worker_database: Database, owner: Any) -> Books:
    return Books(app_database, worker_database, owner)


async def test_a_balance_that_falls_below_a_threshold_is_told_once_until_it_is_back(books: Books) -> None:
    await books.monitor(MonitorType.BALANCE_THRESHOLD, direction="below", threshold="100.00")
    await books.pay(0, "ext:in", "user:1", 150_00)
    await books.pay(1, "user:1", "ext:out", 50_00)
    assert await books.raised() == []
    await books.pay(2, "user:1", "ext:out", 1)
    await books.pay(3, "user:1", "ext:out", 10_00)
    assert await books.raised() == [("user:1", 2, 99_99, 1)]
    await books.pay(4, "ext:in", "user:1", 10_01)
    await books.pay(5, "user:1", "ext:out", 1)
    assert await books.raised() == [("user:1", 2, 99_99, 1), ("user:1", 5, 99_99, 1)]


async def test_a_threshold_below_zero_counts_with_all_of_its_digits(books: Books) -> None:
    lowest, long = "-" + "9" * 36 + ".99", Decimal("-12345678901234567890123456789.01")
    monitor = await books.monitor(MonitorType.BALANCE_THRESHOLD, direction="below", threshold=lowest)
    parameters = checked(MonitorType.BALANCE_THRESHOLD, "EUR", {"direction": "below", "threshold": long})
    assert (
        isinstance(parameters, BalanceThreshold) and parameters.threshold == -1234567890123456789012345678901
    )
    await books.pay(0, "ext:in", "user:1", 1)
    assert await books.raised() == []
    again = checked(monitor.type, "EUR", monitor.parameters)
    assert isinstance(again, BalanceThreshold) and again.threshold == 1 - 10**38


async def test_an_account_that_never_was_above_the_threshold_has_not_fallen_below(books: Books) -> None:
    await books.monitor(MonitorType.BALANCE_THRESHOLD, direction="below", threshold="100.00")
    await books.pay(0, "ext:in", "user:1", 20_00)
    await books.pay(1, "user:1", "ext:out", 10_00)
    assert await books.raised() == []


async def test_a_balance_above_a_threshold_is_armed_again_only_where_the_monitor_says(books: Books) -> None:
    await books.monitor(MonitorType.BALANCE_THRESHOLD, direction="above", threshold="100.00", rearm="80.00")
    for second, cents in enumerate((100_00, 1, -1, 1, -20_00, 20_00, -20_01, 20_01)):
        source, target = ("ext:in", "user:1") if cents > 0 else ("user:1", "ext:in")
        await books.pay(second, source, target, abs(cents))
    assert await books.raised() == [("user:1", 1, 100_01, 1), ("user:1", 7, 100_01, 1)]


async def test_what_is_available_falls_by_a_hold_and_comes_back_when_it_is_voided(books: Books) -> None:
    await books.monitor(MonitorType.BALANCE_THRESHOLD, direction="below", threshold="100.00", of="available")
    await books.pay(0, "ext:in", "user:1", 150_00)
    hold = await books.pay(1, "user:1", "ext:out", 50_01, phase="pending")
    assert await books.raised() == [("user:1", 1, 99_99, 1)]
    await books.pay(2, "user:1", "ext:out", 50_01, phase="void", held=50_01, resolves=hold)
    second = await books.pay(3, "user:1", "ext:out", 60_00, phase="pending")
    await books.pay(4, "user:1", "ext:out", 10_00, phase="post", held=60_00, resolves=second)
    await books.pay(5, "user:1", "ext:out", 40_01)
    assert [each[1:3] for each in await books.raised()] == [(1, 99_99), (3, 90_00), (5, 99_99)]


async def test_a_monitor_that_comes_later_knows_what_is_held_already(books: Books) -> None:
    await books.pay(0, "ext:in", "user:1", 150_00)
    await books.pay(1, "user:1", "ext:out", 30_00, phase="pending")
    assert await books.raised() == []
    monitor = await books.monitor(
        MonitorType.BALANCE_THRESHOLD, direction="below", threshold="100.00", of="available"
    )
    await books.pay(2, "user:1", "ext:out", 20_00)
    await books.pay(3, "user:1", "ext:out", 1)
    assert await books.raised() == [("user:1", 3, 99_99, 1)]
    (alert,) = await books.alerts()
    assert alert.monitor_id == monitor.id
    assert alert.explanation == ("The available balance of user:1 fell to 99.99 EUR, below 100.00 EUR.")


async def test_velocity_counts_what_went_out_within_the_window_and_no_more(books: Books) -> None:
    await books.monitor(MonitorType.VELOCITY, windowSeconds=60, maxAmount="100.00")
    first = await books.pay(0, "user:1", "ext:a", 60_00)
    await books.pay(1, "ext:a", "user:1", 500_00)
    await books.pay(60, "user:1", "ext:b", 100_00)
    assert await books.raised() == []
    last = await books.pay(119.5, "user:1", "ext:a", 1)
    assert await books.raised() == [("user:1", 119.5, 100_01, 2)]
    (alert,) = await books.alerts()
    assert alert.transfers[-1] == last and first not in alert.transfers and len(alert.transfers) == 2
    assert alert.counterparties == ["ext:b", "ext:a"]
    assert (alert.window_from, alert.window_to) == (
        START + timedelta(seconds=59.5), START + timedelta(seconds=119.5),
    )  # fmt: skip
    assert alert.explanation == (
        "user:1 paid out 100.01 EUR in 2 transfers within 60 seconds, more than the limit of 100.00 EUR."
    )


async def test_the_most_that_can_go_in_and_out_can_be_told(books: Books) -> None:
    monitor = await books.monitor(MonitorType.VELOCITY, windowSeconds=1, direction="both", maxAmount="1.00")
    account = WatchedAccount(await books.account("user:1"), "user:1", "EUR", False, START)
    hit = Hit(monitor, account, 0, START, 2 * MAX_UNITS, 2, "{account} moved much.")
    async with books.worker.everything() as session:
        await raise_alerts(session, books.org_id, [hit])
        await session.commit()
    assert [alert.amount for alert in await books.alerts()] == [2 * MAX_UNITS]


async def test_a_monitor_that_cannot_be_read_keeps_no_other_from_looking(books: Books) -> None:
    for wrong in ("parameters = '{}'", "currency = 'DEM'"):
        broken = await books.monitor(MonitorType.VELOCITY, windowSeconds=1, maxCount=1)
        await books.owner.execute(f"UPDATE ledger_monitor SET {wrong} WHERE id = $1", broken.id)
    sound = await books.monitor(MonitorType.BALANCE_THRESHOLD, direction="above", threshold="1.00")
    await books.pay(0, "ext:in", "user:1", 1_01)
    assert await books.raised() == [("user:1", 0, 1_01, 1)]
    assert [alert.monitor_id for alert in await books.alerts()] == [sound.id]


async def test_what_falls_out_of_a_window_in_a_quiet_time_is_read_as_one_sum(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []
    load = Window.load

    def counting(self: Window, groups: Any, cutoff: Any) -> None:
        loaded.append(len(groups))
        load(self, groups, cutoff)

    monkeypatch.setattr(Window, "load", counting)
    await books.monitor(MonitorType.VELOCITY, windowSeconds=HOUR, maxCount=10, direction="out")
    for second in range(10):
        await books.pay(second, "user:1", "ext:a", 1)
    assert await books.raised() == []
    await books.pay(2 * HOUR, "user:1", "ext:a", 1)
    assert await books.raised() == []
    assert loaded == [1]
    for second in range(1, 11):
        await books.pay(2 * HOUR + second, "user:1", "ext:a", 1)
    assert await books.raised() == [("user:1", 2 * HOUR + 10, 11, 11)]


async def test_velocity_counts_transfers_and_tells_an_episode_once(books: Books) -> None:
    await books.monitor(MonitorType.VELOCITY, windowSeconds=10, maxCount=2, direction="both")
    for second in range(0, 30, 5):
        await books.pay(second, "user:1", "ext:a", 1)
    assert await books.raised() == []
    for second in (30, 31, 32, 41, 60, 61, 62, 72.0, 73, 74):
        await books.pay(second, "user:1", "ext:a", 1)
    assert [each[1:] for each in await books.raised()] == [(31, 3, 3), (62, 3, 3), (74, 3, 3)]


async def test_holds_are_no_movements_until_they_are_posted(books: Books) -> None:
    await books.monitor(MonitorType.VELOCITY, windowSeconds=60, maxAmount="100.00")
    hold = await books.pay(0, "user:1", "ext:a", 150_00, phase="pending")
    assert await books.raised() == []
    await books.pay(1, "user:1", "ext:a", 100_01, phase="post", held=150_00, resolves=hold)
    assert await books.raised() == [("user:1", 1, 100_01, 1)]


async def test_structuring_is_several_just_below_that_are_together_above(books: Books) -> None:
    await books.monitor(
        MonitorType.STRUCTURING, threshold="1000.00", windowSeconds=HOUR, minCount=3,
        shareFrom=Decimal("0.9"), shareTo=1,
    )  # fmt: skip
    for second, cents in enumerate((900_00, 899_99, 1000_00, 999_99)):
        await books.pay(second, "ext:a", "user:1", cents)
    await books.pay(10, "user:1", "ext:a", 950_00)
    await books.pay(HOUR, "ext:a", "user:1", 950_00)
    assert await books.raised() == []
    await books.pay(HOUR + 2, "ext:b", "user:1", 900_00)
    assert await books.raised() == [("user:1", HOUR + 2, 999_99 + 950_00 + 900_00, 3)]
    (alert,) = await books.alerts()
    assert alert.explanation == (
        "user:1 took in 2849.99 EUR in 3 transfers within 3600 seconds, each of at least 90 % and less than"
        " 100 % of 1000.00 EUR."
    )


async def test_structuring_that_is_together_no_more_than_the_threshold_is_none(books: Books) -> None:
    await books.monitor(
        MonitorType.STRUCTURING, threshold="100.00", windowSeconds=HOUR, minCount=2,
        shareFrom=Decimal("0.5"), shareTo=Decimal("0.6"),
    )  # fmt: skip
    await books.pay(0, "ext:a", "user:1", 50_00)
    await books.pay(1, "ext:a", "user:1", 50_00)
    assert await books.raised() == []
    await books.pay(2, "ext:a", "user:2", 50_00)
    await books.pay(3, "ext:a", "user:2", 50_01)
    assert await books.raised() == [("user:2", 3, 100_01, 2)]


async def test_a_burst_is_more_than_a_factor_of_the_average_before(books: Books) -> None:
    await books.monitor(MonitorType.BURST, windowSeconds=60, baselineSeconds=600, factor=3, minCount=4)
    # 20 in 600 seconds are 2 a minute: more than 6 are a burst.
    for number in range(20):
        await books.pay(100_000 + number * 30, "user:1", "ext:a", 100)
    for second in range(6):
        await books.pay(100_655 + second / 10, "user:1", "ext:a", 100)
    assert await books.raised() == []
    await books.pay(100_656, "user:1", "ext:a", 100)
    assert await books.raised() == [("user:1", 100_656, 700, 7)]
    (alert,) = await books.alerts()
    assert alert.explanation == (
        "user:1 moved 7.00 EUR in 7 transfers within 60 seconds, more than 3 times its average of"
        " 20 transfers in 600 seconds before."
    )


async def test_an_account_that_wakes_up_is_a_burst_from_the_least_count_on(books: Books) -> None:
    await books.monitor(MonitorType.BURST, windowSeconds=60, baselineSeconds=600, factor=3, minCount=4)
    for second in range(3):
        await books.pay(100_000 + second, "user:1", "ext:a", 100)
    assert await books.raised() == []
    await books.pay(100_003, "user:1", "ext:a", 100)
    assert await books.raised() == [("user:1", 100_003, 400, 4)]


async def test_a_burst_is_not_judged_before_the_monitor_has_watched_for_both_windows(books: Books) -> None:
    await books.monitor(MonitorType.BURST, windowSeconds=60, baselineSeconds=2 * 86_400, factor=3, minCount=1)
    await books.pay(86_400 + 59, "user:1", "ext:a", 100)
    assert await books.raised() == []
    await books.pay(86_400 + 60, "user:1", "ext:a", 100)
    assert [each[1] for each in await books.raised()] == [86_460]


async def test_a_counterparty_is_first_seen_once_in_either_direction(books: Books) -> None:
    await books.monitor(MonitorType.FIRST_SEEN_COUNTERPARTY)
    first = await books.pay(0, "user:1", "ext:a", 100)
    await books.pay(1, "ext:a", "user:1", 100)
    await books.pay(2, "user:1", "ext:b", 200)
    assert await books.raised() == [("user:1", 0, 100, 1), ("user:1", 2, 200, 1)]
    alert = (await books.alerts())[0]
    assert (alert.transfers, alert.counterparties) == ([first], ["ext:a"])
    assert alert.explanation == "user:1 paid out 1.00 EUR to ext:a, with which it had never dealt before."


async def test_whom_an_account_knew_before_the_monitor_came_is_not_new(books: Books) -> None:
    await books.pay(0, "user:1", "ext:a", 100)
    await books.watch()
    await books.monitor(MonitorType.FIRST_SEEN_COUNTERPARTY)
    await books.pay(1, "ext:a", "user:1", 100)
    assert await books.raised() == []


async def test_a_hold_that_was_given_back_introduces_nobody(books: Books) -> None:
    await books.monitor(MonitorType.FIRST_SEEN_COUNTERPARTY)
    hold = await books.pay(0, "user:1", "ext:a", 100, phase="pending")
    await books.pay(1, "user:1", "ext:a", 100, phase="void", held=100, resolves=hold)
    assert await books.raised() == []
    await books.pay(2, "user:1", "ext:a", 100)
    assert await books.raised() == [("user:1", 2, 100, 1)]


async def test_first_seen_has_a_least_amount_a_direction_and_a_time_to_learn(books: Books) -> None:
    await books.monitor(
        MonitorType.FIRST_SEEN_COUNTERPARTY, minAmount="10.00", direction="out", learningSeconds=100
    )
    await books.account("user:1", opened=0)
    await books.pay(99, "user:1", "ext:early", 10_00)
    await books.pay(100, "user:1", "ext:little", 9_99)
    await books.pay(101, "ext:in", "user:1", 10_00)
    assert await books.raised() == []
    await books.pay(102, "user:1", "ext:new", 10_00)
    assert await books.raised() == [("user:1", 102, 10_00, 1)]


async def test_two_watched_accounts_that_meet_are_one_alert_of_the_one_that_pays(books: Books) -> None:
    await books.monitor(MonitorType.FIRST_SEEN_COUNTERPARTY)
    await books.pay(0, "user:2", "user:1", 100)
    assert await books.raised() == [("user:2", 0, 100, 1)]


async def test_money_that_comes_back_within_the_tolerance_is_a_round_trip(books: Books) -> None:
    await books.monitor(MonitorType.ROUND_TRIP, windowSeconds=HOUR, minAmount="50.00")
    await books.pay(0, "user:1", "ext:a", 100_00)
    await books.pay(1, "ext:a", "user:1", 94_99)
    await books.pay(2, "ext:a", "user:1", 105_01)
    await books.pay(3, "ext:b", "user:1", 100_00)
    assert await books.raised() == []
    back = await books.pay(4, "ext:a", "user:1", 95_00)
    assert await books.raised() == [("user:1", 4, 95_00, 2)]
    (alert,) = await books.alerts()
    assert (alert.transfers[-1], alert.counterparties) == (back, ["ext:a"])
    assert alert.explanation == (
        "95.00 EUR came back to user:1 from ext:a, after user:1 had paid out 100.00 EUR to it within the 3600"
        " seconds before."
    )


async def test_a_round_trip_has_a_window_a_least_amount_and_an_order(books: Books) -> None:
    await books.monitor(MonitorType.ROUND_TRIP, windowSeconds=100, minAmount="50.00")
    await books.pay(0, "ext:a", "user:1", 100_00)
    await books.pay(1, "user:1", "ext:a", 100_00)
    await books.pay(2, "user:1", "ext:b", 49_99)
    await books.pay(3, "ext:b", "user:1", 49_99)
    await books.pay(101, "ext:a", "user:1", 100_00)
    assert await books.raised() == []
    await books.pay(102, "user:1", "ext:a", 100_00)
    await books.pay(201.5, "ext:a", "user:1", 100_00)
    assert [each[1] for each in await books.raised()] == [201.5]


async def test_what_is_given_back_by_design_is_no_round_trip(books: Books) -> None:
    await books.monitor(MonitorType.ROUND_TRIP, windowSeconds=HOUR, minAmount="50.00")
    paid = await books.pay(0, "user:1", "ext:a", 100_00)
    await books.pay(1, "ext:a", "user:1", 100_00, kind="reversal", reverses=paid)
    await books.pay(2, "user:1", "ext:a", 100_00)
    await books.pay(3, "ext:a", "user:1", 100_00, kind="refund")
    assert await books.raised() == []


async def test_a_cycle_of_three_is_found_where_the_monitor_looks_around_three(books: Books) -> None:
    await books.monitor(MonitorType.ROUND_TRIP, ["user:1"], windowSeconds=HOUR, minAmount="50.00")
    first = await books.pay(0, "user:1", "ext:a", 100_00)
    second = await books.pay(1, "ext:a", "ext:b", 98_00)
    third = await books.pay(2, "ext:b", "user:1", 97_00)
    assert await books.raised() == []
    await books.monitor(MonitorType.ROUND_TRIP, ["user:1"], windowSeconds=HOUR, minAmount="50.00", maxHops=3)
    first = await books.pay(10, "user:1", "ext:a", 100_00)
    second = await books.pay(11, "ext:a", "ext:b", 98_00)
    third = await books.pay(12, "ext:b", "user:1", 97_00)
    assert await books.raised() == [("user:1", 12, 97_00, 3)]
    (alert,) = await books.alerts()
    assert (alert.transfers, alert.counterparties) == ([first, second, third], ["ext:b", "ext:a"])
    assert alert.explanation == (
        "97.00 EUR came back to user:1 from ext:b, after user:1 had paid out 100.00 EUR to ext:a, which paid"
        " ext:b, within the 3600 seconds before."
    )


@pytest.mark.parametrize("wrong", ["amount", "order", "way"])
async def test_a_cycle_of_three_with_a_leg_that_does_not_fit_is_none(books: Books, wrong: str) -> None:
    await books.monitor(MonitorType.ROUND_TRIP, ["user:1"], windowSeconds=HOUR, minAmount="50.00", maxHops=3)
    legs = [("user:1", "ext:a", 100_00), ("ext:a", "ext:b", 98_00), ("ext:b", "user:1", 97_00)]
    if wrong == "amount":
        legs[1] = ("ext:a", "ext:b", 94_99)
    elif wrong == "order":
        legs[0], legs[1] = legs[1], legs[0]
    else:
        legs[1] = ("ext:c", "ext:b", 98_00)
    for second, leg in enumerate(legs):
        await books.pay(second, *leg)
    assert await books.raised() == []


@pytest.mark.parametrize("seed", range(4))
async def test_windows_are_exact_however_the_transfers_are_cut(books: Books, seed: int) -> None:
    """Against a window that is added up anew for every transfer."""
    random = Random(seed)
    await books.monitor(MonitorType.VELOCITY, ["user:1"], windowSeconds=20, maxAmount="5.00")
    await books.monitor(MonitorType.VELOCITY, ["user:1"], windowSeconds=7, maxCount=4, direction="in")
    second, moves = 0.0, []
    for _ in range(150):
        second += random.choice((0, 0, 0.5, 1, 1, 3, 8, 30))
        cents, out = random.randint(1, 200), random.random() < 0.6
        moves.append((second, cents, out))
        await books.pay(second, *(("user:1", "ext:a") if out else ("ext:a", "user:1")), cents)
        if random.random() < 0.1:
            while await follow(books.worker, WATCHER, _look, most_transfers=random.randint(1, 9)):
                pass
    expected = []
    for direction, window, over in ((True, 20, lambda s: sum(s) > 500), (False, 7, lambda s: len(s) > 4)):
        last = -1e9
        for place, (at, _, out) in enumerate(moves):
            held = [c for t, c, o in moves[: place + 1] if at - window < t and o is direction]
            if out is direction and over(held):
                if last + window <= at:
                    expected.append(("user:1", at, sum(held), len(held)))
                last = at
    assert expected
    assert sorted(await books.raised()) == sorted(expected), f"seed {seed}"
