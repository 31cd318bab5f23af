// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BatchPayout} from "../src/BatchPayout.sol";
import {AwkwardToken} from "./AwkwardToken.sol";
import {Fixture, Vm} from "./Base.sol";

contract BatchPayoutTest is Fixture {
    address private constant ALICE = address(0xA11CE);
    address private constant BOB = address(0xB0B);
    address private constant CAROL = address(0xCA401);
    bytes32 private constant BATCH = "batch";

    AwkwardToken private awkward;

    function setUp() public override {
        super.setUp();
        awkward = new AwkwardToken();
    }

    // Who may call, and how often

    function testFuzz_nobody_but_the_account_itself_may_call(address caller) public {
        vm.assume(caller != address(treasury));
        vm.expectRevert(BatchPayout.NotSelf.selector);
        vm.prank(caller);
        treasury.pay(BATCH, address(usdc), payment(ALICE, 1));
    }

    function test_nobody_can_use_the_code_at_its_own_address() public {
        vm.expectRevert(BatchPayout.NotSelf.selector);
        code.pay(BATCH, address(usdc), payment(ALICE, 1));
    }

    function test_a_batch_id_is_accepted_once() public {
        vm.assertEq(treasury.batchPaid(BATCH), false);
        pay(BATCH, payment(ALICE, 1));
        vm.assertEq(treasury.batchPaid(BATCH), true);
        vm.assertEq(treasury.batchPaid("other"), false);
        vm.expectRevert(abi.encodeWithSelector(BatchPayout.BatchAlreadyPaid.selector, BATCH));
        pay(BATCH, payment(BOB, 1));
        vm.assertEq(usdc.balanceOf(BOB), 0);
    }

    function test_a_batch_that_failed_throughout_is_still_spent() public {
        blacklist(ALICE);
        pay(BATCH, payment(ALICE, 1));
        vm.expectRevert(abi.encodeWithSelector(BatchPayout.BatchAlreadyPaid.selector, BATCH));
        pay(BATCH, payment(ALICE, 1));
    }

    function test_batch_ids_lie_where_erc7201_puts_them() public {
        pay(BATCH, payment(ALICE, 1));
        bytes32 base =
            keccak256(abi.encode(uint256(keccak256("coffer.storage.BatchPayout")) - 1)) & ~bytes32(uint256(0xff));
        vm.assertEq(vm.load(address(treasury), keccak256(abi.encode(BATCH, base))), bytes32(uint256(1)));
    }

    // What is accepted

    function test_an_empty_batch_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(BatchPayout.InvalidPayments.selector, 0));
        pay(BATCH, "");
    }

    function testFuzz_a_batch_that_is_not_whole_payments_is_refused(uint16 length) public {
        vm.assume(length % 32 != 0);
        vm.expectRevert(abi.encodeWithSelector(BatchPayout.InvalidPayments.selector, length));
        pay(BATCH, new bytes(length));
    }

    function test_a_token_without_code_refuses_the_batch() public {
        vm.expectRevert(abi.encodeWithSelector(BatchPayout.NotAToken.selector, ALICE));
        vm.prank(address(treasury));
        treasury.pay(BATCH, ALICE, payment(BOB, 1));
        vm.assertEq(treasury.batchPaid(BATCH), false);
    }

    function test_the_account_is_no_token() public {
        vm.prank(address(treasury));
        vm.assertEq(treasury.pay(BATCH, address(treasury), payment(BOB, 1)), hex"01");
    }

    // What happens to each payment

    function test_every_recipient_is_paid_and_told_so_in_one_event() public {
        vm.expectEmit(address(treasury));
        emit BatchPayout.BatchPaid(BATCH, 2, 0);
        bytes memory failed = pay(BATCH, bytes.concat(payment(ALICE, 5), payment(BOB, 7)));
        vm.assertEq(failed, hex"00");
        vm.assertEq(usdc.balanceOf(ALICE), 5);
        vm.assertEq(usdc.balanceOf(BOB), 7);
        vm.assertEq(usdc.balanceOf(address(treasury)), TREASURY_FUNDS - 12);
    }

    function test_a_recipient_may_come_twice() public {
        pay(BATCH, bytes.concat(payment(ALICE, 5), payment(ALICE, 5)));
        vm.assertEq(usdc.balanceOf(ALICE), 10);
    }

    function test_a_blacklisted_recipient_spoils_nobody_elses_payment() public {
        blacklist(BOB);
        vm.expectEmit(address(treasury));
        emit BatchPayout.PaymentFailed(
            BATCH, 1, abi.encodeWithSignature("Error(string)", "Blacklistable: account is blacklisted")
        );
        vm.expectEmit(address(treasury));
        emit BatchPayout.BatchPaid(BATCH, 2, 1);
        bytes memory failed = pay(BATCH, bytes.concat(payment(ALICE, 5), payment(BOB, 6), payment(CAROL, 7)));
        vm.assertEq(failed, hex"02");
        vm.assertEq(usdc.balanceOf(ALICE), 5);
        vm.assertEq(usdc.balanceOf(BOB), 0);
        vm.assertEq(usdc.balanceOf(CAROL), 7);
        vm.assertEq(usdc.balanceOf(address(treasury)), TREASURY_FUNDS - 12);
    }

    function test_a_pause_fails_every_payment() public {
        pause();
        vm.assertEq(pay(BATCH, bytes.concat(payment(ALICE, 5), payment(BOB, 6))), hex"03");
        vm.assertEq(usdc.balanceOf(address(treasury)), TREASURY_FUNDS);
    }

    function test_what_the_balance_does_not_cover_fails_and_smaller_payments_go_on() public {
        bytes memory payments = bytes.concat(payment(ALICE, TREASURY_FUNDS - 1), payment(BOB, 2), payment(CAROL, 1));
        vm.assertEq(pay(BATCH, payments), hex"02");
        vm.assertEq(usdc.balanceOf(address(treasury)), 0);
        vm.assertEq(usdc.balanceOf(CAROL), 1);
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
        bytes memory failed = pay(BATCH, payments);
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
            while (logs[seen].topics[0] != BatchPayout.PaymentFailed.selector) ++seen;
            vm.assertEq(logs[seen].topics[1], BATCH);
            vm.assertEq(uint256(logs[seen++].topics[2]), i);
        }
        for (uint256 i = n; i < failed.length * 8; ++i) {
            vm.assertFalse(isSet(failed, i), "a bit beyond the last payment");
        }
        Vm.Log memory last = logs[logs.length - 1];
        vm.assertEq(last.topics[0], BatchPayout.BatchPaid.selector);
        vm.assertEq(last.data, abi.encode(n - failures, failures));
        vm.assertEq(usdc.balanceOf(address(treasury)), TREASURY_FUNDS - (n - failures) * amount);
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
    }

    function test_an_answer_that_is_no_boolean_is_a_failure() public {
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.ReturnsTwo), hex"07");
    }

    function test_an_answer_too_short_for_a_boolean_is_a_failure() public {
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

    function test_a_token_cannot_call_back_into_the_account() public {
        vm.assertEq(_payAwkwardly(AwkwardToken.Manner.CallsBack), hex"07");
        vm.assertEq(treasury.batchPaid("again"), false);
    }

    // Gas

    function test_low_gas_refuses_the_batch() public {
        bytes memory call = abi.encodeCall(treasury.pay, (BATCH, address(usdc), payment(ALICE, 1)));
        vm.prank(address(treasury));
        (bool done, bytes memory reason) = address(treasury).call{gas: 200_000}(call);
        vm.assertFalse(done, "the batch went through");
        vm.assertEq(reason, abi.encodeWithSelector(BatchPayout.OutOfGas.selector));
        vm.assertEq(treasury.batchPaid(BATCH), false);
    }

    function testFuzz_gas_decides_whether_a_batch_happens_and_never_what_fails(uint256 gas_) public {
        (bool done, bytes memory answer) = _payTen(address(usdc), within(gas_, 5_000, 700_000));
        if (done) vm.assertEq(abi.decode(answer, (bytes)), hex"0000");
        vm.assertEq(usdc.balanceOf(address(treasury)), done ? TREASURY_FUNDS - 10 : TREASURY_FUNDS);
        vm.assertEq(treasury.batchPaid(BATCH), done);
    }

    /// @dev The worst case: a token that fails cheaply when gas is low, which leaves enough to report a failure.
    function testFuzz_a_payment_is_never_given_less_gas_than_its_due(uint256 gas_) public {
        awkward.behave(AwkwardToken.Manner.RefusesOnLowGas);
        (bool done, bytes memory answer) = _payTen(address(awkward), within(gas_, 5_000, 400_000));
        if (done) vm.assertEq(abi.decode(answer, (bytes)), hex"0000");
        vm.assertEq(treasury.batchPaid(BATCH), done);
    }

    // The account as an account

    function test_it_still_takes_ether() public {
        vm.deal(address(this), 1 ether);
        (bool done,) = address(treasury).call{value: 1 ether, gas: 30_000}("");
        vm.assertTrue(done, "ether was refused");
        vm.assertEq(address(treasury).balance, 1 ether);
    }

    function test_it_still_takes_collectibles() public {
        vm.assertEq(bytes32(treasury.onERC721Received(ALICE, BOB, 1, "")), bytes32(treasury.onERC721Received.selector));
        vm.assertEq(
            bytes32(treasury.onERC1155Received(ALICE, BOB, 1, 1, "")), bytes32(treasury.onERC1155Received.selector)
        );
    }

    function test_it_vouches_for_its_own_signature_alone() public view {
        bytes32 digest = keccak256("anything");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(TREASURY_KEY, digest);
        vm.assertEq(bytes32(treasury.isValidSignature(digest, abi.encodePacked(r, s, v))), bytes32(hex"1626ba7e"));
        vm.assertEq(bytes32(treasury.isValidSignature(~digest, abi.encodePacked(r, s, v))), bytes32(hex"ffffffff"));
        vm.assertEq(bytes32(treasury.isValidSignature(digest, "")), bytes32(hex"ffffffff"));
    }

    function _payTen(address token, uint256 gas_) private returns (bool done, bytes memory answer) {
        bytes memory payments;
        for (uint256 i; i < 10; ++i) {
            payments = bytes.concat(payments, payment(address(uint160(0x10000 + i)), 1));
        }
        bytes memory call = abi.encodeCall(treasury.pay, (BATCH, token, payments));
        vm.prank(address(treasury));
        return address(treasury).call{gas: gas_}(call);
    }

    function _payAwkwardly(AwkwardToken.Manner manner) private returns (bytes memory failed) {
        awkward.behave(manner);
        bytes memory payments = bytes.concat(payment(ALICE, 1), payment(BOB, 1), payment(CAROL, 1));
        vm.prank(address(treasury));
        return treasury.pay(BATCH, address(awkward), payments);
    }
}
