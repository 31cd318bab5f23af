// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AllowancePayout} from "../src/AllowancePayout.sol";
import {BatchPayout} from "../src/BatchPayout.sol";
import {TestUSDC} from "../src/TestUSDC.sol";
import {USDCProxy} from "../src/USDCProxy.sol";

/// @notice The part of Foundry's cheat codes that these tests use.
interface Vm {
    struct Gas {
        uint64 gasLimit;
        uint64 gasTotalUsed;
        uint64 gasMemoryUsed;
        int64 gasRefunded;
        uint64 gasRemaining;
    }

    struct Log {
        bytes32[] topics;
        bytes data;
        address emitter;
    }

    struct SignedDelegation {
        uint8 v;
        bytes32 r;
        bytes32 s;
        uint64 nonce;
        address implementation;
    }

    function addr(uint256 key) external pure returns (address);
    function assertApproxEqRel(uint256 left, uint256 right, uint256 maxPercentDelta, string calldata) external pure;
    function assertEq(address left, address right) external pure;
    function assertEq(bytes calldata left, bytes calldata right) external pure;
    function assertEq(bytes32 left, bytes32 right) external pure;
    function assertEq(bool left, bool right) external pure;
    function assertEq(string calldata left, string calldata right) external pure;
    function assertEq(uint256 left, uint256 right) external pure;
    function assertEq(uint256 left, uint256 right, string calldata problem) external pure;
    function assertFalse(bool condition, string calldata problem) external pure;
    function assertTrue(bool condition, string calldata problem) external pure;
    function assume(bool condition) external pure;
    function deal(address account, uint256 balance) external;
    function expectEmit(address emitter) external;
    function expectRevert(bytes calldata reason) external;
    function expectRevert(bytes4 reason) external;
    function getRecordedLogs() external returns (Log[] memory);
    function lastCallGas() external view returns (Gas memory);
    function load(address account, bytes32 slot) external view returns (bytes32);
    function prank(address sender) external;
    function recordLogs() external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function signAndAttachDelegation(address implementation, uint256 key) external returns (SignedDelegation memory);
    function warp(uint256 timestamp) external;
}

/// @notice Names, cheat codes and short cuts that all tests share.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    event log_named_uint(string key, uint256 val);

    address internal constant ADMIN = address(0xA0);
    address internal constant OWNER = address(0xA1);
    address internal constant MASTER_MINTER = address(0xA2);
    address internal constant PAUSER = address(0xA3);
    address internal constant BLACKLISTER = address(0xA4);
    address internal constant MINTER = address(0xA5);
    uint256 internal constant TREASURY_KEY = 0xC0FFE7;
    uint256 internal constant TREASURY_FUNDS = 1_000_000e6;

    TestUSDC internal usdc;
    BatchPayout internal code;
    BatchPayout internal treasury;
    AllowancePayout internal payout;
    address internal constant PAYER = address(0xCAFE);

    function mint(address to, uint256 amount) internal {
        vm.prank(MINTER);
        usdc.mint(to, amount);
    }

    function blacklist(address account) internal {
        vm.prank(BLACKLISTER);
        usdc.blacklist(account);
    }

    function pause() internal {
        vm.prank(PAUSER);
        usdc.pause();
    }

    /// @dev The treasury calls itself, as its own transaction would.
    function pay(bytes32 batchId, bytes memory payments) internal returns (bytes memory failed) {
        vm.prank(address(treasury));
        return treasury.pay(batchId, address(usdc), payments);
    }

    /// @dev The payer calls the contract that it has approved.
    function payByAllowance(bytes32 batchId, bytes memory payments) internal returns (bytes memory failed) {
        vm.prank(PAYER);
        return payout.pay(batchId, address(usdc), payments);
    }

    function approve(uint256 amount) internal {
        vm.prank(PAYER);
        usdc.approve(address(payout), amount);
    }

    function payment(address to, uint256 amount) internal pure returns (bytes memory) {
        return abi.encodePacked(to, uint96(amount));
    }

    function isSet(bytes memory bitmap, uint256 index) internal pure returns (bool) {
        return uint8(bitmap[index / 8]) & (uint256(1) << (index % 8)) != 0;
    }

    function within(uint256 value, uint256 least, uint256 most) internal pure returns (uint256) {
        uint256 span = most - least;
        return least + (span == type(uint256).max ? value : value % (span + 1));
    }
}

/// @notice A USDC behind its proxy with its offices filled, a treasury account that delegates to BatchPayout, and a
/// payer that has allowed AllowancePayout all it has.
abstract contract Fixture is Base {
    function setUp() public virtual {
        bytes memory start = abi.encodeCall(TestUSDC.initialize, (OWNER, MASTER_MINTER, PAUSER, BLACKLISTER));
        usdc = TestUSDC(address(new USDCProxy(address(new TestUSDC()), ADMIN, start)));
        vm.prank(MASTER_MINTER);
        usdc.configureMinter(MINTER, type(uint256).max);

        code = new BatchPayout();
        treasury = BatchPayout(payable(vm.addr(TREASURY_KEY)));
        vm.signAndAttachDelegation(address(code), TREASURY_KEY);
        mint(address(treasury), TREASURY_FUNDS);

        payout = new AllowancePayout();
        mint(PAYER, TREASURY_FUNDS);
        approve(TREASURY_FUNDS);
    }
}
