// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What both ways of paying a batch are called with.
interface Payout {
    function pay(bytes32 batchId, address token, bytes calldata payments) external returns (bytes memory failed);
}

/// @notice A token that misbehaves in the way it is told to.
contract AwkwardToken {
    enum Manner {
        ReturnsNothing,
        ReturnsTrue,
        ReturnsFalse,
        ReturnsTwo,
        ReturnsOneByte,
        ReturnsTrueThenOneByte,
        RevertsAtLength,
        BurnsAllGas,
        RefusesOnLowGas,
        CallsBack
    }

    Manner public manner;
    uint256 private calls;

    function behave(Manner manner_) external {
        manner = manner_;
    }

    fallback() external {
        if (manner == Manner.RevertsAtLength) {
            assembly {
                revert(4096, 50000)
            }
        }
        if (manner == Manner.BurnsAllGas) {
            assembly {
                invalid()
            }
        }
        if (manner == Manner.RefusesOnLowGas) require(gasleft() > 199_000, "too little gas");
        if (manner == Manner.CallsBack) Payout(msg.sender).pay("again", address(this), new bytes(32));
        if (manner == Manner.ReturnsNothing) return;
        uint256 answer = manner == Manner.ReturnsFalse ? 0 : manner == Manner.ReturnsTwo ? 2 : 1;
        bool short = manner == Manner.ReturnsOneByte || (manner == Manner.ReturnsTrueThenOneByte && calls++ != 0);
        uint256 size = short ? 1 : 32;
        assembly {
            mstore(0, answer)
            return(0, size)
        }
    }
}
