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

    function _transferTo(address to) private {
        vm.prank(address(treasury));
        usdc.transfer(to, 123_456_789);
    }

    function _hundred() private pure returns (bytes memory payments) {
        for (uint256 i; i < 100; ++i) {
            payments = bytes.concat(payments, payment(address(bytes20(keccak256(abi.encode(i)))), 123_456_789));
        }
    }

    function _compare(string memory what, uint256 payments, uint256 genuine) private {
        uint256 gas_ = vm.lastCallGas().gasTotalUsed / payments;
        emit log_named_uint(what, gas_);
        vm.assertApproxEqRel(gas_, genuine, 0.1e18, what);
    }
}
