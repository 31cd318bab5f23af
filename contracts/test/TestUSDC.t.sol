// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";

import {TestUSDC} from "../src/TestUSDC.sol";
import {USDCProxy} from "../src/USDCProxy.sol";
import {Fixture} from "./Base.sol";

contract TestUSDCTest is Fixture {
    uint256 private constant ALICE_KEY = 0xA11CE;
    address private immutable alice = vm.addr(ALICE_KEY);
    address private constant BOB = address(0xB0B);
    address private constant CAROL = address(0xCA401);

    function setUp() public override {
        super.setUp();
        vm.warp(1_000_000);
        mint(alice, 100e6);
    }

    // Identity and proxy

    function test_it_presents_itself_as_usdc() public view {
        vm.assertEq(usdc.name(), "USD Coin");
        vm.assertEq(usdc.symbol(), "USDC");
        vm.assertEq(usdc.currency(), "USD");
        vm.assertEq(usdc.version(), "2");
        vm.assertEq(usdc.decimals(), 6);
    }

    function test_it_is_initialized_once() public {
        vm.expectRevert(Initializable.InvalidInitialization.selector);
        usdc.initialize(OWNER, OWNER, OWNER, OWNER);
    }

    function test_the_implementation_itself_cannot_be_initialized() public {
        TestUSDC bare = new TestUSDC();
        vm.expectRevert(Initializable.InvalidInitialization.selector);
        bare.initialize(OWNER, OWNER, OWNER, OWNER);
    }

    function test_the_storage_is_where_erc7201_puts_it() public view {
        bytes32 slot =
            keccak256(abi.encode(uint256(keccak256("coffer.storage.TestUSDC")) - 1)) & ~bytes32(uint256(0xff));
        vm.assertEq(address(uint160(uint256(vm.load(address(usdc), slot)))), MASTER_MINTER);
    }

    function test_the_admin_sees_the_proxy_alone_and_others_the_token_alone() public {
        USDCProxy proxy = USDCProxy(payable(address(usdc)));
        vm.prank(ADMIN);
        vm.assertEq(proxy.admin(), ADMIN);
        vm.expectRevert(USDCProxy.AdminCannotCallToken.selector);
        vm.prank(ADMIN);
        usdc.balanceOf(alice);
        vm.expectRevert(bytes(""));
        proxy.admin();
    }

    function test_an_upgrade_keeps_balances() public {
        USDCProxy proxy = USDCProxy(payable(address(usdc)));
        TestUSDC next = new TestUSDC();
        vm.prank(ADMIN);
        proxy.upgradeTo(address(next));
        vm.prank(ADMIN);
        vm.assertEq(proxy.implementation(), address(next));
        vm.assertEq(usdc.balanceOf(alice), 100e6);
    }

    function test_a_stranger_cannot_upgrade() public {
        TestUSDC next = new TestUSDC();
        vm.expectRevert(bytes(""));
        USDCProxy(payable(address(usdc))).upgradeTo(address(next));
    }

    function test_the_admin_can_be_changed_by_the_admin_alone() public {
        USDCProxy proxy = USDCProxy(payable(address(usdc)));
        vm.prank(ADMIN);
        proxy.changeAdmin(BOB);
        vm.prank(BOB);
        vm.assertEq(proxy.admin(), BOB);
        vm.expectRevert(bytes(""));
        vm.prank(CAROL);
        proxy.changeAdmin(CAROL);
    }

    // Transfers and allowances

    function testFuzz_a_transfer_moves_exactly_its_amount(uint256 amount) public {
        amount = within(amount, 0, 100e6);
        vm.prank(alice);
        vm.assertTrue(usdc.transfer(BOB, amount), "transfer");
        vm.assertEq(usdc.balanceOf(alice), 100e6 - amount);
        vm.assertEq(usdc.balanceOf(BOB), amount);
    }

    function test_a_transfer_to_oneself_changes_nothing() public {
        vm.prank(alice);
        usdc.transfer(alice, 60e6);
        vm.assertEq(usdc.balanceOf(alice), 100e6);
    }

    function testFuzz_nobody_spends_more_than_they_have(uint256 amount) public {
        amount = within(amount, 100e6 + 1, type(uint256).max);
        vm.expectRevert(bytes("ERC20: transfer amount exceeds balance"));
        vm.prank(alice);
        usdc.transfer(BOB, amount);
    }

    function test_nothing_goes_to_the_zero_address() public {
        vm.expectRevert(bytes("ERC20: transfer to the zero address"));
        vm.prank(alice);
        usdc.transfer(address(0), 1);
    }

    function test_nothing_goes_to_the_token_itself() public {
        vm.expectRevert(bytes("Blacklistable: account is blacklisted"));
        vm.prank(alice);
        usdc.transfer(address(usdc), 1);
    }

    function testFuzz_an_allowance_is_used_up_however_large(uint256 allowed, uint256 amount) public {
        amount = within(amount, 0, 100e6);
        allowed = within(allowed, amount, type(uint256).max);
        vm.prank(alice);
        usdc.approve(BOB, allowed);
        vm.prank(BOB);
        usdc.transferFrom(alice, CAROL, amount);
        vm.assertEq(usdc.allowance(alice, BOB), allowed - amount);
        vm.assertEq(usdc.balanceOf(CAROL), amount);
    }

    function test_nobody_spends_more_than_they_were_allowed() public {
        vm.prank(alice);
        usdc.approve(BOB, 10);
        vm.expectRevert(bytes("ERC20: transfer amount exceeds allowance"));
        vm.prank(BOB);
        usdc.transferFrom(alice, BOB, 11);
    }

    function test_an_allowance_is_raised_and_lowered() public {
        vm.prank(alice);
        usdc.increaseAllowance(BOB, 10);
        vm.prank(alice);
        usdc.decreaseAllowance(BOB, 4);
        vm.assertEq(usdc.allowance(alice, BOB), 6);
        vm.expectRevert(bytes("ERC20: decreased allowance below zero"));
        vm.prank(alice);
        usdc.decreaseAllowance(BOB, 7);
    }

    // Blacklist

    function test_a_blacklisted_sender_is_refused_and_keeps_the_balance() public {
        blacklist(alice);
        vm.expectRevert(bytes("Blacklistable: account is blacklisted"));
        vm.prank(alice);
        usdc.transfer(BOB, 1);
        vm.assertEq(usdc.balanceOf(alice), 100e6);
    }

    function test_a_blacklisted_recipient_is_refused() public {
        blacklist(BOB);
        vm.expectRevert(bytes("Blacklistable: account is blacklisted"));
        vm.prank(alice);
        usdc.transfer(BOB, 1);
    }

    function test_transfer_from_checks_spender_payer_and_payee() public {
        vm.prank(alice);
        usdc.approve(BOB, 10);
        address[3] memory parties = [alice, BOB, CAROL];
        for (uint256 i; i < parties.length; ++i) {
            blacklist(parties[i]);
            vm.expectRevert(bytes("Blacklistable: account is blacklisted"));
            vm.prank(BOB);
            usdc.transferFrom(alice, CAROL, 1);
            vm.prank(BLACKLISTER);
            usdc.unBlacklist(parties[i]);
        }
        vm.prank(BOB);
        usdc.transferFrom(alice, CAROL, 1);
        vm.assertEq(usdc.balanceOf(CAROL), 1);
    }

    function test_only_the_blacklister_blacklists() public {
        vm.expectRevert(bytes("Blacklistable: caller is not the blacklister"));
        usdc.blacklist(alice);
        vm.expectRevert(bytes("Blacklistable: caller is not the blacklister"));
        usdc.unBlacklist(alice);
    }

    // Pause

    function test_a_pause_stops_everything_that_moves_or_allows() public {
        pause();
        bytes[7] memory calls = [
            abi.encodeCall(usdc.transfer, (BOB, 1)),
            abi.encodeCall(usdc.transferFrom, (alice, BOB, 0)),
            abi.encodeCall(usdc.approve, (BOB, 1)),
            abi.encodeCall(usdc.increaseAllowance, (BOB, 1)),
            abi.encodeCall(usdc.mint, (BOB, 1)),
            abi.encodeCall(usdc.burn, (1)),
            abi.encodeCall(usdc.configureMinter, (BOB, 1))
        ];
        for (uint256 i; i < calls.length; ++i) {
            vm.prank(alice);
            (bool done, bytes memory reason) = address(usdc).call(calls[i]);
            vm.assertFalse(done, "went through a pause");
            vm.assertEq(reason, abi.encodeWithSignature("Error(string)", "Pausable: paused"));
        }
        vm.prank(PAUSER);
        usdc.unpause();
        vm.prank(alice);
        usdc.transfer(BOB, 1);
        vm.assertEq(usdc.balanceOf(BOB), 1);
    }

    function test_only_the_pauser_pauses() public {
        vm.expectRevert(bytes("Pausable: caller is not the pauser"));
        usdc.pause();
        vm.expectRevert(bytes("Pausable: caller is not the pauser"));
        usdc.unpause();
    }

    // Issue and redemption

    function testFuzz_a_minter_issues_up_to_the_allowance(uint256 allowed, uint256 amount) public {
        allowed = within(allowed, 1, 1e18);
        amount = within(amount, 1, allowed);
        uint256 supply = usdc.totalSupply();
        vm.prank(MASTER_MINTER);
        usdc.configureMinter(CAROL, allowed);
        vm.prank(CAROL);
        usdc.mint(BOB, amount);
        vm.assertEq(usdc.minterAllowance(CAROL), allowed - amount);
        vm.assertEq(usdc.balanceOf(BOB), amount);
        vm.assertEq(usdc.totalSupply(), supply + amount);
        vm.expectRevert(bytes("FiatToken: mint amount exceeds minterAllowance"));
        vm.prank(CAROL);
        usdc.mint(BOB, allowed - amount + 1);
    }

    function test_minting_is_refused_to_strangers_for_nothing_and_to_nobody() public {
        vm.expectRevert(bytes("FiatToken: caller is not a minter"));
        usdc.mint(BOB, 1);
        vm.expectRevert(bytes("FiatToken: mint amount not greater than 0"));
        vm.prank(MINTER);
        usdc.mint(BOB, 0);
        vm.expectRevert(bytes("FiatToken: mint to the zero address"));
        vm.prank(MINTER);
        usdc.mint(address(0), 1);
    }

    function test_a_supply_that_would_reach_the_blacklist_bit_is_refused() public {
        vm.expectRevert(bytes("FiatTokenV2_2: Balance exceeds (2^255 - 1)"));
        vm.prank(MINTER);
        usdc.mint(BOB, 1 << 255);
    }

    function test_a_removed_minter_is_none() public {
        vm.prank(MASTER_MINTER);
        usdc.removeMinter(MINTER);
        vm.assertEq(usdc.isMinter(MINTER), false);
        vm.assertEq(usdc.minterAllowance(MINTER), 0);
        vm.expectRevert(bytes("FiatToken: caller is not a minter"));
        vm.prank(MINTER);
        usdc.mint(BOB, 1);
    }

    function test_only_the_master_minter_makes_minters() public {
        vm.expectRevert(bytes("FiatToken: caller is not the masterMinter"));
        usdc.configureMinter(BOB, 1);
        vm.expectRevert(bytes("FiatToken: caller is not the masterMinter"));
        usdc.removeMinter(MINTER);
    }

    function test_a_minter_burns_its_own_and_no_more() public {
        mint(MINTER, 10);
        uint256 supply = usdc.totalSupply();
        vm.prank(MINTER);
        usdc.burn(4);
        vm.assertEq(usdc.balanceOf(MINTER), 6);
        vm.assertEq(usdc.totalSupply(), supply - 4);
        vm.expectRevert(bytes("FiatToken: burn amount exceeds balance"));
        vm.prank(MINTER);
        usdc.burn(7);
    }

    function test_the_owner_alone_fills_the_offices() public {
        vm.prank(OWNER);
        usdc.updatePauser(BOB);
        vm.assertEq(usdc.pauser(), BOB);
        vm.expectRevert(bytes("Ownable: caller is not the owner"));
        usdc.updateMasterMinter(BOB);
        vm.expectRevert(bytes("Blacklistable: new blacklister is the zero address"));
        vm.prank(OWNER);
        usdc.updateBlacklister(address(0));
    }

    // EIP-2612

    function test_a_permit_allows_once() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(7, 2_000_000);
        usdc.permit(alice, BOB, 7, 2_000_000, v, r, s);
        vm.assertEq(usdc.allowance(alice, BOB), 7);
        vm.assertEq(usdc.nonces(alice), 1);
        vm.expectRevert(bytes("EIP2612: invalid signature"));
        usdc.permit(alice, BOB, 7, 2_000_000, v, r, s);
    }

    function test_a_permit_ends_with_its_deadline() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(7, 999_999);
        vm.expectRevert(bytes("FiatTokenV2: permit is expired"));
        usdc.permit(alice, BOB, 7, 999_999, v, r, s);
    }

    function testFuzz_a_permit_holds_for_no_other_amount(uint256 amount) public {
        vm.assume(amount != 7);
        (uint8 v, bytes32 r, bytes32 s) = _permit(7, 2_000_000);
        vm.expectRevert(bytes("EIP2612: invalid signature"));
        usdc.permit(alice, BOB, amount, 2_000_000, v, r, s);
    }

    function test_the_domain_is_the_one_of_usdc() public view {
        bytes32 kind = keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
        bytes32 domain =
            keccak256(abi.encode(kind, keccak256("USD Coin"), keccak256("2"), block.chainid, address(usdc)));
        vm.assertEq(usdc.DOMAIN_SEPARATOR(), domain);
    }

    // EIP-3009

    function test_an_authorization_moves_money_once() public {
        (uint8 v, bytes32 r, bytes32 s) = _authorize(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 0, 2_000_000);
        usdc.transferWithAuthorization(alice, BOB, 7, 0, 2_000_000, "n", v, r, s);
        vm.assertEq(usdc.balanceOf(BOB), 7);
        vm.assertEq(usdc.authorizationState(alice, "n"), true);
        vm.expectRevert(bytes("FiatTokenV2: authorization is used or canceled"));
        usdc.transferWithAuthorization(alice, BOB, 7, 0, 2_000_000, "n", v, r, s);
    }

    function test_an_authorization_holds_within_its_time() public {
        bytes32 kind = usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH();
        (uint8 v, bytes32 r, bytes32 s) = _authorize(kind, 1_000_000, 2_000_000);
        vm.expectRevert(bytes("FiatTokenV2: authorization is not yet valid"));
        usdc.transferWithAuthorization(alice, BOB, 7, 1_000_000, 2_000_000, "n", v, r, s);
        vm.warp(2_000_000);
        vm.expectRevert(bytes("FiatTokenV2: authorization is expired"));
        usdc.transferWithAuthorization(alice, BOB, 7, 1_000_000, 2_000_000, "n", v, r, s);
    }

    function test_an_authorization_to_receive_is_for_the_payee_alone() public {
        (uint8 v, bytes32 r, bytes32 s) = _authorize(usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), 0, 2_000_000);
        vm.expectRevert(bytes("FiatTokenV2: caller must be the payee"));
        usdc.receiveWithAuthorization(alice, BOB, 7, 0, 2_000_000, "n", v, r, s);
        vm.prank(BOB);
        usdc.receiveWithAuthorization(alice, BOB, 7, 0, 2_000_000, "n", v, r, s);
        vm.assertEq(usdc.balanceOf(BOB), 7);
    }

    function test_an_authorization_to_transfer_is_none_to_receive() public {
        (uint8 v, bytes32 r, bytes32 s) = _authorize(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 0, 2_000_000);
        vm.expectRevert(bytes("FiatTokenV2: invalid signature"));
        vm.prank(BOB);
        usdc.receiveWithAuthorization(alice, BOB, 7, 0, 2_000_000, "n", v, r, s);
    }

    function test_a_cancelled_authorization_is_worthless() public {
        bytes32 content = keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), alice, bytes32("n")));
        (uint8 v, bytes32 r, bytes32 s) = _sign(content);
        usdc.cancelAuthorization(alice, "n", v, r, s);
        (v, r, s) = _authorize(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 0, 2_000_000);
        vm.expectRevert(bytes("FiatTokenV2: authorization is used or canceled"));
        usdc.transferWithAuthorization(alice, BOB, 7, 0, 2_000_000, "n", v, r, s);
    }

    function test_only_the_authorizer_cancels() public {
        bytes32 content = keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), BOB, bytes32("n")));
        (uint8 v, bytes32 r, bytes32 s) = _sign(content);
        vm.expectRevert(bytes("FiatTokenV2: invalid signature"));
        usdc.cancelAuthorization(BOB, "n", v, r, s);
    }

    function test_a_blacklisted_authorizer_is_refused() public {
        (uint8 v, bytes32 r, bytes32 s) = _authorize(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 0, 2_000_000);
        blacklist(alice);
        vm.expectRevert(bytes("Blacklistable: account is blacklisted"));
        usdc.transferWithAuthorization(alice, BOB, 7, 0, 2_000_000, "n", v, r, s);
    }

    function test_a_delegated_account_still_signs_for_itself() public {
        bytes32 kind = usdc.PERMIT_TYPEHASH();
        bytes32 content = keccak256(abi.encode(kind, address(treasury), BOB, 7, 0, 2_000_000));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), content));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(TREASURY_KEY, digest);
        usdc.permit(address(treasury), BOB, 7, 2_000_000, v, r, s);
        vm.assertEq(usdc.allowance(address(treasury), BOB), 7);
    }

    function test_nobody_else_signs_for_a_delegated_account() public {
        bytes32 kind = usdc.PERMIT_TYPEHASH();
        (uint8 v, bytes32 r, bytes32 s) = _sign(keccak256(abi.encode(kind, address(treasury), BOB, 7, 0, 2_000_000)));
        vm.expectRevert(bytes("EIP2612: invalid signature"));
        usdc.permit(address(treasury), BOB, 7, 2_000_000, v, r, s);
    }

    function _permit(uint256 amount, uint256 deadline) private view returns (uint8 v, bytes32 r, bytes32 s) {
        return _sign(keccak256(abi.encode(usdc.PERMIT_TYPEHASH(), alice, BOB, amount, usdc.nonces(alice), deadline)));
    }

    /// @dev 7 units from Alice to Bob, nonce "n".
    function _authorize(bytes32 kind, uint256 validAfter, uint256 validBefore)
        private
        view
        returns (uint8 v, bytes32 r, bytes32 s)
    {
        return _sign(keccak256(abi.encode(kind, alice, BOB, 7, validAfter, validBefore, bytes32("n"))));
    }

    function _sign(bytes32 content) private view returns (uint8 v, bytes32 r, bytes32 s) {
        return vm.sign(ALICE_KEY, keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), content)));
    }
}
