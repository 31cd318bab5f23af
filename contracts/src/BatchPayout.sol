// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ERC1155Holder} from "@openzeppelin/contracts/token/ERC1155/utils/ERC1155Holder.sol";
import {ERC721Holder} from "@openzeppelin/contracts/token/ERC721/utils/ERC721Holder.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title Many token payments in one transaction, from the treasury account itself
/// @notice Code for an externally owned account to delegate to (EIP-7702). The account calls itself; nobody else
/// can. A batch id is accepted once, a payment that fails leaves the others untouched, and what failed is reported
/// both as events and as the return value, so that an `eth_call` tells beforehand how a batch would end.
/// @dev The account keeps its key: whoever holds it can still do anything without this code.
contract BatchPayout is ERC721Holder, ERC1155Holder, IERC1271 {
    /// @notice Gas that every payment is given, no more and no less. Whether a payment fails therefore depends on
    /// the token's state and never on the gas limit of the transaction. USDC needs about 41,000 at its coldest.
    uint256 public constant PAYMENT_GAS = 200_000;

    /// @notice Longest reason, in bytes, that `PaymentFailed` carries. A token cannot make the batch dearer than this.
    uint256 public constant MAX_REASON = 256;

    /// @dev A call is given at most 63/64 of what is left (EIP-150); 10,000 covers what is spent before it starts.
    uint256 private constant GAS_NEEDED = PAYMENT_GAS + PAYMENT_GAS / 63 + 10_000;

    /// @dev One payment: 20 bytes of address, 12 bytes of amount.
    uint256 private constant PAYMENT_SIZE = 32;

    /// @dev ERC-7201, `erc7201("coffer.storage.BatchPayout")`: the account may delegate to other code over time, so
    /// nothing may sit at the first slots.
    bytes32 private constant STORAGE = 0x425a54afccadaffa288bed3e8a19a9677f475de4be348ca955a0656c8b994100;

    /// @custom:storage-location erc7201:coffer.storage.BatchPayout
    struct Layout {
        mapping(bytes32 batchId => bool) paid;
    }

    /// @notice The batch was carried out; `paid + failed` is the number of its payments.
    event BatchPaid(bytes32 indexed batchId, uint256 paid, uint256 failed);

    /// @notice The payment at `index` did not happen. `reason` is what the token returned, cut to `MAX_REASON` bytes.
    event PaymentFailed(bytes32 indexed batchId, uint256 indexed index, bytes reason);

    /// @notice The batch id was used before.
    error BatchAlreadyPaid(bytes32 batchId);
    /// @notice The payments are empty, or not a whole number of 32-byte payments.
    error InvalidPayments(uint256 length);
    /// @notice There is no code at the token's address.
    error NotAToken(address token);
    /// @notice Only the account itself may call.
    error NotSelf();
    /// @notice Too little gas is left to give the next payment its due. Nothing of the batch has happened.
    error OutOfGas();

    /// @notice Plain ether is welcome, as before the delegation.
    receive() external payable {}

    /// @notice Pay `token` to every recipient in `payments`, in order.
    /// @param batchId Chosen by the caller; accepted once in the life of the account, whatever the outcome.
    /// @param token An ERC-20. One that returns nothing from `transfer` is taken at its word.
    /// @param payments Packed, 32 bytes each: recipient (20 bytes), amount in the token's smallest unit (uint96).
    /// @return failed One bit a payment, set if it failed: payment `i` is bit `i % 8` (the lowest is 0) of byte
    /// `i / 8`.
    function pay(bytes32 batchId, address token, bytes calldata payments) external returns (bytes memory failed) {
        require(msg.sender == address(this), NotSelf());
        require(payments.length != 0 && payments.length % PAYMENT_SIZE == 0, InvalidPayments(payments.length));
        require(token.code.length != 0, NotAToken(token));
        mapping(bytes32 => bool) storage done = _layout().paid;
        require(!done[batchId], BatchAlreadyPaid(batchId));
        done[batchId] = true;

        uint256 count = payments.length / PAYMENT_SIZE;
        uint256 failures;
        failed = new bytes((count + 7) / 8);
        for (uint256 i; i < count; ++i) {
            require(gasleft() >= GAS_NEEDED, OutOfGas());
            if (_transfer(token, payments, i)) continue;
            emit PaymentFailed(batchId, i, _reason());
            failed[i / 8] |= bytes1(uint8(1 << (i % 8)));
            ++failures;
        }
        emit BatchPaid(batchId, count - failures, failures);
    }

    /// @notice Whether this account has carried out the batch.
    function batchPaid(bytes32 batchId) external view returns (bool) {
        return _layout().paid[batchId];
    }

    /// @inheritdoc IERC1271
    /// @dev An account with code is asked through ERC-1271 by USDC and others: without this, the account's own
    /// signature on a permit (EIP-2612) or an authorization (EIP-3009) would stop working with the delegation.
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(hash, signature);
        bool own = problem == ECDSA.RecoverError.NoError && signer == address(this);
        return own ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }

    /// @dev Payment `index` as `token.transfer(recipient, amount)`. The call data lies past the end of allocated
    /// memory and the answer in scratch space, so a long batch uses no more memory than a short one.
    function _transfer(address token, bytes calldata payments, uint256 index) private returns (bool done) {
        uint256 gasGiven = PAYMENT_GAS;
        assembly ("memory-safe") {
            let payment := calldataload(add(payments.offset, shl(5, index)))
            let data := mload(0x40)
            mstore(data, shl(224, 0xa9059cbb)) // transfer(address,uint256)
            mstore(add(data, 4), shr(96, payment))
            mstore(add(data, 36), and(payment, 0xffffffffffffffffffffffff))
            done := call(gasGiven, token, 0, data, 68, 0, 32)
            if returndatasize() { done := and(done, and(gt(returndatasize(), 31), eq(mload(0), 1))) }
        }
    }

    /// @dev What the last call returned, cut to `MAX_REASON` bytes.
    function _reason() private pure returns (bytes memory reason) {
        uint256 most = MAX_REASON;
        assembly ("memory-safe") {
            let size := returndatasize()
            if gt(size, most) { size := most }
            reason := mload(0x40)
            mstore(reason, size)
            returndatacopy(add(reason, 32), 0, size)
            mstore(0x40, add(reason, and(add(size, 63), not(31))))
        }
    }

    function _layout() private pure returns (Layout storage $) {
        assembly {
            $.slot := STORAGE
        }
    }
}
