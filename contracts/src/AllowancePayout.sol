// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Many token payments in one transaction, through an allowance
/// @notice For accounts that cannot delegate to code (EIP-7702), because their chain or their signer does not know
/// it. An account lets this contract spend some of its tokens (`approve`) and then calls `pay`; it pays from the
/// caller and from nobody else. A batch id is accepted once of each payer, a payment that fails leaves the others
/// untouched, and what failed is reported both as events and as the return value, so that an `eth_call` tells
/// beforehand how a batch would end.
/// @dev Nobody owns it, nothing in it can be changed, and it holds neither tokens nor ether: an allowance can be
/// spent by a call of its giver and in no other way. It is compiled for chains as old as the merge.
contract AllowancePayout {
    /// @notice Gas that every payment is given, no more and no less. Whether a payment fails therefore depends on
    /// the token's state and never on the gas limit of the transaction. USDC needs about 50,000 at its coldest.
    uint256 public constant PAYMENT_GAS = 200_000;

    /// @notice Longest reason, in bytes, that `PaymentFailed` carries. A token cannot make the batch dearer than this.
    uint256 public constant MAX_REASON = 256;

    /// @dev A call is given at most 63/64 of what is left (EIP-150); 10,000 covers what is spent before it starts.
    uint256 private constant GAS_NEEDED = PAYMENT_GAS + PAYMENT_GAS / 63 + 10_000;

    /// @dev One payment: 20 bytes of address, 12 bytes of amount.
    uint256 private constant PAYMENT_SIZE = 32;

    /// @notice Whether the batch of this payer was carried out.
    mapping(address payer => mapping(bytes32 batchId => bool)) public batchPaid;

    /// @notice The batch was carried out; `paid + failed` is the number of its payments.
    event BatchPaid(bytes32 indexed batchId, address indexed payer, uint256 paid, uint256 failed);

    /// @notice The payment at `index` did not happen. `reason` is what the token returned, cut to `MAX_REASON` bytes.
    event PaymentFailed(bytes32 indexed batchId, address indexed payer, uint256 indexed index, bytes reason);

    /// @notice The payer used the batch id before.
    error BatchAlreadyPaid(bytes32 batchId);
    /// @notice The payments are empty, or not a whole number of 32-byte payments.
    error InvalidPayments(uint256 length);
    /// @notice There is no code at the token's address.
    error NotAToken(address token);
    /// @notice Too little gas is left to give the next payment its due. Nothing of the batch has happened.
    error OutOfGas();

    /// @notice Pay `token` of the caller to every recipient in `payments`, in order.
    /// @param batchId Chosen by the caller; accepted once of this caller, whatever the outcome.
    /// @param token An ERC-20 that the caller has approved this contract for. One that returns nothing from
    /// `transferFrom` is taken at its word.
    /// @param payments Packed, 32 bytes each: recipient (20 bytes), amount in the token's smallest unit (uint96).
    /// @return failed One bit a payment, set if it failed: payment `i` is bit `i % 8` (the lowest is 0) of byte
    /// `i / 8`.
    /// @dev A token that calls back is another caller, and has less gas than a batch asks for to begin.
    function pay(bytes32 batchId, address token, bytes calldata payments) external returns (bytes memory failed) {
        require(payments.length != 0 && payments.length % PAYMENT_SIZE == 0, InvalidPayments(payments.length));
        require(token.code.length != 0, NotAToken(token));
        mapping(bytes32 => bool) storage done = batchPaid[msg.sender];
        require(!done[batchId], BatchAlreadyPaid(batchId));
        done[batchId] = true;

        uint256 count = payments.length / PAYMENT_SIZE;
        uint256 failures;
        failed = new bytes((count + 7) / 8);
        for (uint256 i; i < count; ++i) {
            require(gasleft() >= GAS_NEEDED, OutOfGas());
            if (_transfer(token, payments, i)) continue;
            emit PaymentFailed(batchId, msg.sender, i, _reason());
            failed[i / 8] |= bytes1(uint8(1 << (i % 8)));
            ++failures;
        }
        emit BatchPaid(batchId, msg.sender, count - failures, failures);
    }

    /// @dev Payment `index` as `token.transferFrom(caller, recipient, amount)`. The call data lies past the end of
    /// allocated memory and the answer in scratch space, so a long batch uses no more memory than a short one.
    function _transfer(address token, bytes calldata payments, uint256 index) private returns (bool done) {
        uint256 gasGiven = PAYMENT_GAS;
        assembly ("memory-safe") {
            let payment := calldataload(add(payments.offset, shl(5, index)))
            let data := mload(0x40)
            mstore(data, shl(224, 0x23b872dd)) // transferFrom(address,address,uint256)
            mstore(add(data, 4), caller())
            mstore(add(data, 36), shr(96, payment))
            mstore(add(data, 68), and(payment, 0xffffffffffffffffffffffff))
            done := call(gasGiven, token, 0, data, 100, 0, 32)
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
}
