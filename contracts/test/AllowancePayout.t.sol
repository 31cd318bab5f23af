// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AllowancePayout} from "../src/AllowancePayout.sol";
import {AwkwardToken, Payout} from "./AwkwardToken.sol";
import {Fixture, Vm} from "./Base.sol";

/// @notice A token that, while it is being paid out, tries to pay itself from what its payer allowed of another.
contract ThievingToken {
    bytes32 private immutable batchId;
    address private immutable loot;
    uint256 public calls;

    constructor(bytes32 batchId_, address loot_) {
        (batchId, loot) = (batchId_, loot_);
    }

    function transferFrom(address, address, uint256) external returns (bool) {
        ++calls;
        bytes memory payments = abi.encodePacked(address(this), uint96(7));
        try Payout(msg.sender).pay(batchId, loot, payments) {
            revert("a batch within a batch");
        } catch (bytes memory reason) {
            return bytes4(reason) == AllowancePayout.OutOfGas.selector;
        }
    }
}

contract AllowancePayoutTest is Fixture {
    address private constant ALICE = address(0xA11CE);
    address private constant BOB = address(0xB0B);
    address private constant CAROL = address(0xCA401);
    bytes32 private constant BATCH = "batch";

    AwkwardToken private awkward;

    function setUp() public override {
        super.setUp();
        awkward = new AwkwardToken();
    }

    // Whose money moves, and how often

    function testFuzz_a_caller_pays_from_its_own_account_alone(address caller) public {
        vm.assume(caller != PAYER);
        vm.prank(caller);
        vm.assertEq(payout.pay(BATCH, address(usdc), payment(ALICE, 1)), hex"01");
        vm.assertEq(usdc.balanceOf(PAYER), TREASURY_FUNDS);
        vm.assertEq(usdc.allowance(PAYER, address(payout)), TREASURY_FUNDS);
    }

    function test_nothing_is_paid_without_an_allowance() public {
        approve(0);
        vm.recordLogs();
        vm.assertEq(payByAllowance(BATCH, payment(ALICE, 1)), hex"01");
        bytes memory reason = abi.decode(vm.getRecordedLogs()[0].data, (bytes));
        vm.assertEq(reason, abi.encodeWithSignature("Error(string)", "ERC20: transfer amount exceeds allowance"));
        vm.assertEq(usdc.balanceOf(ALICE), 0);
    }

    function test_what_the_allowance_does_not_cover_fails_and_smaller_payments_go_on() public {
        approve(10);
        bytes memory payments = bytes.concat(payment(ALICE, 8), payment(BOB, 3), payment(CAROL, 2));
        vm.assertEq(payByAllowance(BATCH, payments), hex"02");
        vm.assertEq(usdc.allowance(PAYER, address(payout)), 0);
        vm.assertEq(usdc.balanceOf(PAYER), TREASURY_FUNDS - 10);
    }

    function test_a_batch_id_is_accepted_once() public {
        vm.assertEq(payout.batchPaid(PAYER, BATCH), false);
        payByAllowance(BATCH, payment(ALICE, 1));
        vm.assertEq(payout.batchPaid(PAYER, BATCH), true);
        vm.assertEq(payout.batchPaid(PAYER, "other"), false);
        vm.expectRevert(abi.encodeWithSelector(AllowancePayout.BatchAlreadyPaid.selector, BATCH));
        payByAllowance(BATCH, payment(BOB, 1));
        vm.assertEq(usdc.balanceOf(BOB), 0);
    }

    function test_a_batch_that_failed_throughout_is_still_spent() public {
        blacklist(ALICE);
        payByAllowance(BATCH, payment(ALICE, 1));
        vm.expectRevert(abi.encodeWithSelector(AllowancePayout.BatchAlreadyPaid.selector, BATCH));
        payByAllowance(BATCH, payment(ALICE, 1));
    }

    function test_nobody_can_use_up_the_batch_id_of_another() public {
        vm.prank(BOB);
        payout.pay(BATCH, address(usdc), payment(ALICE, 1));
        vm.assertEq(payout.batchPaid(BOB, BATCH), true);
        vm.assertEq(payout.batchPaid(PAYER, BATCH), false);
        vm.assertEq(payByAllowance(BATCH, payment(ALICE, 5)), hex"00");
        vm.assertEq(usdc.balanceOf(ALICE), 5);
    }

    /// @dev A payment is given less gas than a batch asks for to begin, so no batch runs within another.
    function test_a_token_that_calls_back_pays_nobody() public {
        ThievingToken thief = new ThievingToken(BATCH, address(usdc));
        vm.recordLogs();
        vm.prank(PAYER);
        vm.assertEq(payout.pay(BATCH, address(thief), payment(ALICE, 1)), hex"00");
        Vm.Log[] memory logs = vm.getRecordedLogs();

        vm.assertEq(thief.calls(), 1);
        vm.assertEq(logs.length, 1);
        vm.assertEq(logs[0].topics[2], bytes32(uint256(uint160(PAYER))));
        vm.assertEq(usdc.balanceOf(PAYER), TREASURY_FUNDS);
        vm.assertEq(usdc.balanceOf(address(thief)), 0);
        vm.assertEq(payout.batchPaid(address(thief), BATCH), false);
    }

    // What is accepted

    function test_an_empty_batch_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(AllowancePayout.InvalidPayments.selector, 0));
        payByAllowance(BATCH, "");
    }

    function testFuzz_a_batch_that_is_not_whole_payments_is_refused(uint16 length) public {
        vm.assume(length % 32 != 0);
        vm.expectRevert(abi.encodeWithSelector(AllowancePayout.InvalidPayments.selector, length));
        payByAllowance(BATCH, new bytes(length));
    }

    function test_a_token_without_code_refuses_the_batch() public {
        vm.expectRevert(abi.encodeWithSelector(AllowancePayout.NotAToken.selector, ALICE));
        vm.prank(PAYER);
        payout.pay(BATCH, ALICE, payment(BOB, 1));
        vm.assertEq(payout.batchPaid(PAYER, BATCH), false);
    }

    function test_the_contract_is_no_token() public {
        vm.prank(PAYER);
        vm.assertEq(payout.pay(BATCH, address(payout), payment(BOB, 1)), hex"01");
    }

    function test_it_takes_no_ether() public {
        vm.deal(address(this), 1 ether);
        (bool done,) = address(payout).call{value: 1}("");
        vm.assertFalse(done, "ether was taken");
        (done,) = address(payout).call{value: 1}(abi.encodeCall(payout.pay, (BATCH, address(usdc), payment(ALICE, 1))));
        vm.assertFalse(done, "ether was taken with a batch");
    }

    // What happens to each payment

    function test_every_recipient_is_paid_and_told_so_in_one_event() public {
        vm.expectEmit(address(payout));
        emit AllowancePayout.BatchPaid(BATCH, PAYER, 2, 0);
        vm.assertEq(payByAllowance(BATCH, bytes.concat(payment(ALICE, 5), payment(BOB, 7))), hex"00");
        vm.assertEq(usdc.balanceOf(ALICE), 5);
        vm.assertEq(usdc.balanceOf(BOB), 7);
        vm.assertEq(usdc.balanceOf(PAYER), TREASURY_FUNDS - 12);
        vm.assertEq(usdc.allowance(PAYER, address(payout)), TREASURY_FUNDS - 12);
    }

    function test_a_blacklisted_recipient_spoils_nobody_elses_payment() public {
        blacklist(BOB);
        vm.expectEmit(address(payout));
        emit AllowancePayout.PaymentFailed(
            BATCH, PAYER, 1, abi.encodeWithSignature("Error(string)", "Blacklistable: account is blacklisted")
        );
        vm.expectEmit(address(payout));
        emit AllowancePayout.BatchPaid(BATCH, PAYER, 2, 1);
        bytes memory payments = bytes.concat(payment(ALICE, 5), payment(BOB, 6), payment(CAROL, 7));
        vm.assertEq(payByAllowance(BATCH, payments), hex"02");
        vm.assertEq(usdc.balanceOf(ALICE), 5);
        vm.assertEq(usdc.balanceOf(BOB), 0);
        vm.assertEq(usdc.balanceOf(CAROL), 7);
        vm.assertEq(usdc.balanceOf(PAYER), TREASURY_FUNDS - 12);
    }

    function test_a_pause_fails_every_payment() public {
        pause();
        vm.assertEq(payByAllowance(BATCH, bytes.concat(payment(ALICE, 5), payment(BOB, 6))), hex"03");
        vm.assertEq(usdc.balanceOf(PAYER), TREASURY_FUNDS);
    }

    /// @dev `failing` says which of `count` recipients are blacklisted; bitmap, events and balances must agree.
    function testFuzz_bitmap_events_and_balances_agree(uint8 count, uint256 failing, uint96 amount) public {
        uint256 n = within(count, 1, 40);
        amount = uint96(within(amount, 1, TREASURY_FUNDS / n));
        bytes memory payments;
        for (uint256 i; i < n; ++i) {
            address to = address(uint160(0x10000 + i));
            payments = bytes.concat(payments, payment(to, amount));
            if (failing >> i & 1 == 1) blacklist(to);
        }
        vm.recordLogs();
        bytes memory failed = payByAllowance(BATCH, payments);
        Vm.Log[] memory logs = vm.getRecordedLogs();

        vm.assertEq(failed.length, (n + 7) / 8);
        uint256 failures;
        uint256 seen;
        for (uint256 i; i < n; ++i) {
            bool expected = failing >> i & 1 == 1;
            vm.assertEq(isSet(failed, i), expected);
            vm.assertEq(usdc.balanceOf(address(uint160(0x10000 + i))), expected ? 0 : amount);
            if (!expected) continue;
            ++failures;
            while (logs[seen].topics[0] != AllowancePayout.PaymentFailed.selector) ++seen;
            vm.assertEq(logs[seen].topics[1], BATCH);
            vm.assertEq(uint256(logs[seen++].topics[3]), i);
        }
        for (uint256 i = n; i < failed.length * 8; ++i) {
            vm.assertFalse(isSet(failed, i), "a bit beyond the last payment");
        }
        Vm.Log memory last = logs[logs.length - 1];
        vm.assertEq(last.topics[0], AllowancePayout.BatchPaid.selector);
        vm.assertEq(last.data, abi.encode(n - failures, failures));
        vm.assertEq(usdc.balanceOf(PAYER), TREASURY_FUNDS - (n - failures) * amount);
    }

    // Tokens of all kinds

    function test_a_token_that_returns_nothing_is_taken_at_its_word() public {
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.ReturnsNothing), hex"00");
    }

    function test_a_token_that_returns_true_has_paid() public {
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.ReturnsTrue), hex"00");
    }

    function test_any_other_answer_is_a_failure() public {
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.ReturnsFalse), hex"07");
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.ReturnsTwo), hex"07");
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.ReturnsOneByte), hex"07");
    }

    /// @dev What the first answer left in memory must not fill up the second.
    function test_an_answer_too_short_is_not_read_as_the_one_before_it() public {
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.ReturnsTrueThenOneByte), hex"06");
    }

    function test_a_long_reason_is_cut() public {
        vm.recordLogs();
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.RevertsAtLength), hex"07");
        Vm.Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(abi.decode(logs[0].data, (bytes)), new bytes(256));
    }

    function test_a_token_that_burns_all_gas_burns_only_what_it_is_given() public {
        uint256 before = gasleft();
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.BurnsAllGas), hex"07");
        vm.assertTrue(before - gasleft() < 3 * 200_000 + 100_000, "more gas than the three payments were given");
    }

    // Gas

    function testFuzz_gas_decides_whether_a_batch_happens_and_never_what_fails(uint256 gas_) public {
        (bool done, bytes memory answer) = _payTen(address(usdc), within(gas_, 5_000, 750_000));
        if (done) vm.assertEq(abi.decode(answer, (bytes)), hex"0000");
        vm.assertEq(usdc.balanceOf(PAYER), done ? TREASURY_FUNDS - 10 : TREASURY_FUNDS);
        vm.assertEq(payout.batchPaid(PAYER, BATCH), done);
    }

    /// @dev The worst case: a token that fails cheaply when gas is low, which leaves enough to report a failure.
    function testFuzz_a_payment_is_never_given_less_gas_than_its_due(uint256 gas_) public {
        awkward.behave(AwkwardToken.Manner.RefusesOnLowGas);
        (bool done, bytes memory answer) = _payTen(address(awkward), within(gas_, 5_000, 400_000));
        if (done) vm.assertEq(abi.decode(answer, (bytes)), hex"0000");
        vm.assertEq(payout.batchPaid(PAYER, BATCH), done);
    }

    function _payTen(address token, uint256 gas_) private returns (bool done, bytes memory answer) {
        bytes memory payments;
        for (uint256 i; i < 10; ++i) {
            payments = bytes.concat(payments, payment(address(uint160(0x10000 + i)), 1));
        }
        bytes memory call = abi.encodeCall(payout.pay, (BATCH, token, payments));
        vm.prank(PAYER);
        return address(payout).call{gas: gas_}(call);
    }

    function _payAwkwardly(AwkwardToken.Manner manner) private returns (bytes memory failed) {
        awkward.behave(manner);
        bytes memory payments = bytes.concat(payment(ALICE, 1), payment(BOB, 1), payment(CAROL, 1));
        vm.prank(PAYER);
        return payout.pay(bytes32(uint256(manner)), address(awkward), payments);
    }
}
