// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {ERC1967Utils} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Utils.sol";

/// @title The proxy in front of TestUSDC
/// @notice Behaves as the one in front of the genuine USDC: its admin sees the proxy alone, everyone else the token
/// alone. Admin and implementation are read from storage on every call, because that is what the genuine one costs.
contract USDCProxy is ERC1967Proxy {
    /// @notice The admin of the proxy has no business with the token.
    error AdminCannotCallToken();

    /// @param initialization Call made on the token at once, `TestUSDC.initialize(…)`; must not be empty.
    constructor(address implementation_, address admin_, bytes memory initialization)
        ERC1967Proxy(implementation_, initialization)
    {
        ERC1967Utils.changeAdmin(admin_);
    }

    modifier ifAdmin() {
        if (msg.sender == ERC1967Utils.getAdmin()) {
            _;
        } else {
            _delegate(_implementation());
        }
    }

    function admin() external ifAdmin returns (address) {
        return ERC1967Utils.getAdmin();
    }

    function implementation() external ifAdmin returns (address) {
        return _implementation();
    }

    function changeAdmin(address newAdmin) external ifAdmin {
        ERC1967Utils.changeAdmin(newAdmin);
    }

    function upgradeTo(address newImplementation) external ifAdmin {
        ERC1967Utils.upgradeToAndCall(newImplementation, "");
    }

    function upgradeToAndCall(address newImplementation, bytes calldata data) external payable ifAdmin {
        ERC1967Utils.upgradeToAndCall(newImplementation, data);
    }

    function _fallback() internal override {
        require(msg.sender != ERC1967Utils.getAdmin(), AdminCannotCallToken());
        super._fallback();
    }
}
