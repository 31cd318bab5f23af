// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AllowancePayout} from "../src/AllowancePayout.sol";
import {BatchPayout} from "../src/BatchPayout.sol";
import {TestUSDC} from "../src/TestUSDC.sol";
import {Base, Fixture} from "./Base.sol";

/// @notice Does, in any order, all that moves or freezes money, and keeps a second set of books.
contract Handler is Base {
    address[] public accounts;
    uint256 public paidOut;
    uint256 public batches;
    uint256 public allowed = TREASURY_FUNDS;
    uint256 public paidByAllowance;
    uint256 public batchesByAllowance;
    mapping(address => uint256) public frozen;

    constructor(TestUSDC usdc_, BatchPayout treasury_, AllowancePayout payout_) {
        usdc = usdc_;
        treasury = treasury_;
        payout = payout_;
        accounts.push(address(treasury_));
        accounts.push(PAYER);
        accounts.push(MINTER);
        for (uint256 i; i < 5; ++i) {
            accounts.push(address(uint160(0x10000 + i)));
        }
    }

    function count() external view returns (uint256) {
        return accounts.length;
    }

    function move(uint256 from, uint256 to, uint256 amount) external {
        address sender = _any(from, 2);
        amount = within(amount, 0, usdc.balanceOf(sender) + 1);
        vm.prank(sender);
        try usdc.transfer(_any(to, 2), amount) {} catch {}
    }

    function moveByAllowance(uint256 from, uint256 by, uint256 to, uint256 amount) external {
        address sender = _any(from, 2);
        amount = within(amount, 0, usdc.balanceOf(sender) + 1);
        vm.prank(sender);
        try usdc.approve(_any(by, 2), amount) {} catch {}
        vm.prank(_any(by, 2));
        try usdc.transferFrom(sender, _any(to, 2), amount) {} catch {}
    }

    function issue(uint256 to, uint256 amount) external {
        vm.prank(MINTER);
        try usdc.mint(_any(to, 2), within(amount, 1, 1e12)) {} catch {}
    }

    function redeem(uint256 amount) external {
        vm.prank(MINTER);
        try usdc.burn(within(amount, 0, usdc.balanceOf(MINTER) + 1)) {} catch {}
    }

    /// @dev The treasury and the payer stay free, so that batches go on; one in four attempts freezes.
    function freeze(uint256 who) external {
        address account = _any(who, 2);
        if (who % 4 == 0 && !usdc.isBlacklisted(account)) {
            frozen[account] = usdc.balanceOf(account);
            blacklist(account);
        } else {
            vm.prank(BLACKLISTER);
            usdc.unBlacklist(account);
        }
    }

    function pauseOrNot(uint256 choice) external {
        vm.prank(PAUSER);
        if (choice % 8 == 0) usdc.pause();
        else usdc.unpause();
    }

    function payBatch(uint256 seed, uint256 size) external {
        (bytes memory payments, uint256[] memory amounts) = _batch(address(treasury), seed, size);
        bytes memory failed = pay(bytes32(batches), payments);
        for (uint256 i; i < amounts.length; ++i) {
            if (!isSet(failed, i)) paidOut += amounts[i];
        }
        ++batches;
    }

    function allow(uint256 amount) external {
        amount = within(amount, 0, TREASURY_FUNDS);
        vm.prank(PAYER);
        try usdc.approve(address(payout), amount) {
            allowed = amount + paidByAllowance;
        } catch {}
    }

    function payBatchByAllowance(uint256 seed, uint256 size) external {
        (bytes memory payments, uint256[] memory amounts) = _batch(PAYER, seed, size);
        bytes memory failed = payByAllowance(bytes32(batchesByAllowance), payments);
        for (uint256 i; i < amounts.length; ++i) {
            if (!isSet(failed, i)) paidByAllowance += amounts[i];
        }
        ++batchesByAllowance;
    }

    function payAgainByAllowance(uint256 which) external {
        if (batchesByAllowance == 0) return;
        which %= batchesByAllowance;
        vm.prank(PAYER);
        try payout.pay(bytes32(which), address(usdc), payment(accounts[3], 1)) {
            revert("a batch id was accepted twice");
        } catch (bytes memory reason) {
            vm.assertEq(reason, abi.encodeWithSelector(AllowancePayout.BatchAlreadyPaid.selector, which));
        }
    }

    /// @dev Anyone may call; the id is often one that the payer has used or is going to use.
    function payAsAStranger(uint256 who, uint256 batchId, uint256 seed, uint256 size) external {
        (bytes memory payments,) = _batch(PAYER, seed, size);
        vm.prank(_any(who, 2));
        try payout.pay(bytes32(batchId % 64), address(usdc), payments) {} catch {}
    }

    function payAgain(uint256 which) external {
        if (batches == 0) return;
        which %= batches;
        vm.prank(address(treasury));
        try treasury.pay(bytes32(which), address(usdc), payment(accounts[3], 1)) {
            revert("a batch id was accepted twice");
        } catch (bytes memory reason) {
            vm.assertEq(reason, abi.encodeWithSelector(BatchPayout.BatchAlreadyPaid.selector, which));
        }
    }

    function _batch(address payer, uint256 seed, uint256 size)
        private
        view
        returns (bytes memory payments, uint256[] memory amounts)
    {
        amounts = new uint256[](within(size, 1, 12));
        for (uint256 i; i < amounts.length; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            amounts[i] = within(seed >> 8, 0, usdc.balanceOf(payer) / 4 + 1);
            payments = bytes.concat(payments, payment(_any(seed, 2), amounts[i]));
        }
    }

    function _any(uint256 seed, uint256 first) private view returns (address) {
        return accounts[within(seed, first, accounts.length - 1)];
    }
}

contract InvariantsTest is Fixture {
    Handler private handler;

    function setUp() public override {
        super.setUp();
        handler = new Handler(usdc, treasury, payout);
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_balances_add_up_to_the_supply() external view {
        uint256 sum;
        for (uint256 i; i < handler.count(); ++i) {
            sum += usdc.balanceOf(handler.accounts(i));
        }
        vm.assertEq(sum, usdc.totalSupply());
    }

    function invariant_the_treasury_is_short_of_exactly_what_was_paid() external view {
        vm.assertEq(usdc.balanceOf(address(treasury)), TREASURY_FUNDS - handler.paidOut());
    }

    function invariant_the_payer_is_short_of_exactly_what_was_paid() external view {
        vm.assertEq(usdc.balanceOf(PAYER), TREASURY_FUNDS - handler.paidByAllowance());
    }

    function invariant_an_allowance_is_spent_by_its_givers_batches_alone() external view {
        vm.assertEq(usdc.allowance(PAYER, address(payout)), handler.allowed() - handler.paidByAllowance());
        vm.assertEq(usdc.balanceOf(address(payout)), 0);
    }

    function invariant_a_blacklisted_balance_does_not_move() external view {
        for (uint256 i; i < handler.count(); ++i) {
            address account = handler.accounts(i);
            if (usdc.isBlacklisted(account)) vm.assertEq(usdc.balanceOf(account), handler.frozen(account));
        }
    }
}
