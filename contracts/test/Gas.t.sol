// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Base.sol";

/// @notice What transactions cost, whole: base fee of 21,000, call data and storage from cold. `isolate` makes every
/// call of a test a transaction of its own. Compared with what the genuine USDC cost on a copy of mainnet.
contract GasTest is Fixture {
    address private constant KNOWN = address(0xB0B);

    /// forge-config: default.isolate = true
    function test_a_transfer_to_a_new_recipient_costs_what_usdc_costs() public {
        _transferTo(address(0xA11CE));
        _compare("transfer, new recipient", 1, 62_135);
    }

    /// forge-config: default.isolate = true
    function test_a_transfer_to_a_known_recipient_costs_what_usdc_costs() public {
        mint(KNOWN, 1e6);
        _transferTo(KNOWN);
        _compare("transfer, known recipient", 1, 45_035);
    }

    /// forge-config: default.isolate = true
    function test_a_hundred_new_recipients() public {
        pay("one", _hundred());
        _compare("batch of 100, each, new recipients", 100, 28_913);
    }

    /// forge-config: default.isolate = true
    function test_a_hundred_known_recipients() public {
        pay("one", _hundred());
        pay("two", _hundred());
        _compare("batch of 100, each, known recipients", 100, 11_813);
    }

    /// forge-config: default.isolate = true
    function test_a_hundred_new_recipients_by_allowance() public {
        payByAllowance("one", _hundred());
        _atMost("batch of 100 by allowance, each, new recipients", 100, 33_019);
    }

    /// forge-config: default.isolate = true
    function test_a_hundred_known_recipients_by_allowance() public {
        payByAllowance("one", _hundred());
        payByAllowance("two", _hundred());
        _atMost("batch of 100 by allowance, each, known recipients", 100, 15_919);
    }

    /// @dev What a payment in a batch of 100 may cost: half of a plain transfer to a new recipient, three tenths of
    /// one to a known recipient. All four ways are held to it.
    /// forge-config: default.isolate = true
    function test_a_payment_in_a_batch_costs_at_most_its_part_of_a_transfer() public {
        _transferTo(address(0xA11CE));
        uint256 toNew = vm.lastCallGas().gasTotalUsed;
        _transferTo(address(0xA11CE));
        uint256 toKnown = vm.lastCallGas().gasTotalUsed;
        for (uint256 i; i < 2; ++i) {
            pay(bytes32(i), _hundred());
            _within(i == 0 ? toNew * 50 : toKnown * 30);
        }
        for (uint256 i; i < 2; ++i) {
            payByAllowance(bytes32(i), _hundred(1));
            _within(i == 0 ? toNew * 50 : toKnown * 30);
        }
    }

    function _within(uint256 most) private view {
        vm.assertTrue(vm.lastCallGas().gasTotalUsed <= most, "the batch is too dear");
    }

    function _transferTo(address to) private {
        vm.prank(address(treasury));
        usdc.transfer(to, 123_456_789);
    }

    function _hundred() private pure returns (bytes memory payments) {
        return _hundred(0);
    }

    /// @dev To the same recipients for the same `seed`.
    function _hundred(uint256 seed) private pure returns (bytes memory payments) {
        for (uint256 i = seed * 100; i < seed * 100 + 100; ++i) {
            payments = bytes.concat(payments, payment(address(bytes20(keccak256(abi.encode(i)))), 123_456_789));
        }
    }

    function _atMost(string memory what, uint256 payments, uint256 most) private {
        uint256 gas_ = vm.lastCallGas().gasTotalUsed / payments;
        emit log_named_uint(what, gas_);
        vm.assertTrue(gas_ <= most, what);
    }

    function _compare(string memory what, uint256 payments, uint256 genuine) private {
        uint256 gas_ = vm.lastCallGas().gasTotalUsed / payments;
        emit log_named_uint(what, gas_);
        vm.assertApproxEqRel(gas_, genuine, 0.1e18, what);
    }
}
