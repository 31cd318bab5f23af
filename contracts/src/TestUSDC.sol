// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {ERC20Upgradeable} from "@openzeppelin/contracts-upgradeable/token/ERC20/ERC20Upgradeable.sol";
import {NoncesUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/NoncesUpgradeable.sol";
import {PausableUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/PausableUpgradeable.sol";
import {EIP712Upgradeable} from "@openzeppelin/contracts-upgradeable/utils/cryptography/EIP712Upgradeable.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @title A USDC for tests
/// @notice Behaves as Circle's FiatTokenV2_2 does: who may do what, what is refused and with which words, what is
/// signed (EIP-2612, EIP-3009, domain version "2"), and nearly what it costs. Lives behind `USDCProxy`.
/// Amounts are in the smallest unit: 1 USDC is 1,000,000.
contract TestUSDC is ERC20Upgradeable, OwnableUpgradeable, PausableUpgradeable, EIP712Upgradeable, NoncesUpgradeable {
    bytes32 public constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    bytes32 public constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 public constant RECEIVE_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 public constant CANCEL_AUTHORIZATION_TYPEHASH =
        keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");

    /// @dev The highest bit of a balance says that the account is blacklisted: one read tells both.
    uint256 private constant BLACKLISTED = 1 << 255;

    /// @dev ERC-7201, `erc7201("coffer.storage.TestUSDC")`.
    bytes32 private constant STORAGE = 0x916822d8d176a15ed707d4d68f3dce4e69f3b671ef57e4461648293edb848a00;

    /// @custom:storage-location erc7201:coffer.storage.TestUSDC
    struct Layout {
        address masterMinter;
        address pauser;
        address blacklister;
        uint256 supply;
        mapping(address account => uint256) balances;
        mapping(address account => bool) minters;
        mapping(address minter => uint256) minterAllowances;
        mapping(address authorizer => mapping(bytes32 nonce => bool)) authorizationsUsed;
    }

    event Mint(address indexed minter, address indexed to, uint256 amount);
    event Burn(address indexed burner, uint256 amount);
    event MinterConfigured(address indexed minter, uint256 minterAllowedAmount);
    event MinterRemoved(address indexed oldMinter);
    event MasterMinterChanged(address indexed newMasterMinter);
    event PauserChanged(address indexed newAddress);
    event BlacklisterChanged(address indexed newBlacklister);
    event Blacklisted(address indexed account);
    event UnBlacklisted(address indexed account);
    event Pause();
    event Unpause();
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

    modifier notBlacklisted(address account) {
        require(!isBlacklisted(account), "Blacklistable: account is blacklisted");
        _;
    }

    modifier onlyMinters() {
        require(_layout().minters[msg.sender], "FiatToken: caller is not a minter");
        _;
    }

    modifier onlyMasterMinter() {
        require(msg.sender == masterMinter(), "FiatToken: caller is not the masterMinter");
        _;
    }

    modifier onlyPauser() {
        require(msg.sender == pauser(), "Pausable: caller is not the pauser");
        _;
    }

    modifier onlyBlacklister() {
        require(msg.sender == blacklister(), "Blacklistable: caller is not the blacklister");
        _;
    }

    constructor() {
        _disableInitializers();
    }

    /// @notice Set the names and the four offices, once. The token itself is blacklisted, as the genuine one is.
    function initialize(address owner_, address masterMinter_, address pauser_, address blacklister_)
        external
        initializer
    {
        __ERC20_init("USD Coin", "USDC");
        __EIP712_init("USD Coin", "2");
        __Ownable_init(owner_);
        __Pausable_init();
        _setMasterMinter(masterMinter_);
        _setPauser(pauser_);
        _setBlacklister(blacklister_);
        _layout().balances[address(this)] = BLACKLISTED;
    }

    // The offices

    function masterMinter() public view returns (address) {
        return _layout().masterMinter;
    }

    function pauser() public view returns (address) {
        return _layout().pauser;
    }

    function blacklister() public view returns (address) {
        return _layout().blacklister;
    }

    function updateMasterMinter(address newMasterMinter) external onlyOwner {
        _setMasterMinter(newMasterMinter);
        emit MasterMinterChanged(newMasterMinter);
    }

    function updatePauser(address newPauser) external onlyOwner {
        _setPauser(newPauser);
        emit PauserChanged(newPauser);
    }

    function updateBlacklister(address newBlacklister) external onlyOwner {
        _setBlacklister(newBlacklister);
        emit BlacklisterChanged(newBlacklister);
    }

    function pause() external onlyPauser {
        if (!paused()) _pause();
        emit Pause();
    }

    function unpause() external onlyPauser {
        if (paused()) _unpause();
        emit Unpause();
    }

    function blacklist(address account) external onlyBlacklister {
        _layout().balances[account] |= BLACKLISTED;
        emit Blacklisted(account);
    }

    function unBlacklist(address account) external onlyBlacklister {
        _layout().balances[account] &= ~BLACKLISTED;
        emit UnBlacklisted(account);
    }

    function isBlacklisted(address account) public view returns (bool) {
        return _layout().balances[account] & BLACKLISTED != 0;
    }

    // Issue and redemption

    function configureMinter(address minter, uint256 allowance_)
        external
        whenNotPaused
        onlyMasterMinter
        returns (bool)
    {
        _layout().minters[minter] = true;
        _layout().minterAllowances[minter] = allowance_;
        emit MinterConfigured(minter, allowance_);
        return true;
    }

    function removeMinter(address minter) external onlyMasterMinter returns (bool) {
        _layout().minters[minter] = false;
        _layout().minterAllowances[minter] = 0;
        emit MinterRemoved(minter);
        return true;
    }

    function isMinter(address account) external view returns (bool) {
        return _layout().minters[account];
    }

    function minterAllowance(address minter) external view returns (uint256) {
        return _layout().minterAllowances[minter];
    }

    /// @notice Issue `amount` to `to`, out of the caller's minter allowance.
    function mint(address to, uint256 amount)
        external
        whenNotPaused
        onlyMinters
        notBlacklisted(msg.sender)
        notBlacklisted(to)
        returns (bool)
    {
        require(to != address(0), "FiatToken: mint to the zero address");
        require(amount > 0, "FiatToken: mint amount not greater than 0");
        Layout storage $ = _layout();
        uint256 left = $.minterAllowances[msg.sender];
        require(amount <= left, "FiatToken: mint amount exceeds minterAllowance");
        unchecked {
            $.minterAllowances[msg.sender] = left - amount;
        }
        emit Mint(msg.sender, to, amount);
        _update(address(0), to, amount);
        return true;
    }

    /// @notice Destroy `amount` of the calling minter's own tokens.
    function burn(uint256 amount) external whenNotPaused onlyMinters notBlacklisted(msg.sender) {
        require(amount > 0, "FiatToken: burn amount not greater than 0");
        require(amount <= balanceOf(msg.sender), "FiatToken: burn amount exceeds balance");
        emit Burn(msg.sender, amount);
        _update(msg.sender, address(0), amount);
    }

    // ERC-20

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function currency() external pure returns (string memory) {
        return "USD";
    }

    function totalSupply() public view override returns (uint256) {
        return _layout().supply;
    }

    function balanceOf(address account) public view override returns (uint256) {
        return _layout().balances[account] & ~BLACKLISTED;
    }

    function transfer(address to, uint256 value)
        public
        override
        whenNotPaused
        notBlacklisted(msg.sender)
        notBlacklisted(to)
        returns (bool)
    {
        _move(msg.sender, to, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value)
        public
        override
        whenNotPaused
        notBlacklisted(msg.sender)
        notBlacklisted(from)
        notBlacklisted(to)
        returns (bool)
    {
        _spendAllowance(from, msg.sender, value);
        _move(from, to, value);
        return true;
    }

    function approve(address spender, uint256 value) public override whenNotPaused returns (bool) {
        return super.approve(spender, value);
    }

    function increaseAllowance(address spender, uint256 increment) external whenNotPaused returns (bool) {
        _approve(msg.sender, spender, allowance(msg.sender, spender) + increment);
        return true;
    }

    function decreaseAllowance(address spender, uint256 decrement) external whenNotPaused returns (bool) {
        uint256 current = allowance(msg.sender, spender);
        require(decrement <= current, "ERC20: decreased allowance below zero");
        _approve(msg.sender, spender, current - decrement);
        return true;
    }

    // Signed instructions. A signature is 65 bytes (r, s, v) of an account without code; an account with code, a
    // delegated one (EIP-7702) among them, is asked through ERC-1271.

    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function version() external view returns (string memory) {
        return _EIP712Version();
    }

    /// @notice EIP-2612. A deadline of 2^256 - 1 never passes.
    function permit(address owner_, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
    {
        permit(owner_, spender, value, deadline, abi.encodePacked(r, s, v));
    }

    function permit(address owner_, address spender, uint256 value, uint256 deadline, bytes memory signature)
        public
        whenNotPaused
    {
        require(deadline >= block.timestamp, "FiatTokenV2: permit is expired");
        bytes32 content = keccak256(abi.encode(PERMIT_TYPEHASH, owner_, spender, value, _useNonce(owner_), deadline));
        require(_signedBy(owner_, content, signature), "EIP2612: invalid signature");
        _approve(owner_, spender, value);
    }

    /// @notice EIP-3009: whether the authorization was used or cancelled.
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool) {
        return _layout().authorizationsUsed[authorizer][nonce];
    }

    /// @notice EIP-3009: anyone may carry out the transfer that `from` signed.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        transferWithAuthorization(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public whenNotPaused notBlacklisted(from) notBlacklisted(to) {
        bytes32 kind = TRANSFER_WITH_AUTHORIZATION_TYPEHASH;
        bytes32 content = keccak256(abi.encode(kind, from, to, value, validAfter, validBefore, nonce));
        _authorized(from, to, value, validAfter, validBefore, nonce, content, signature);
    }

    /// @notice EIP-3009: as above, and only the recipient may carry it out.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        receiveWithAuthorization(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public whenNotPaused notBlacklisted(from) notBlacklisted(to) {
        require(to == msg.sender, "FiatTokenV2: caller must be the payee");
        bytes32 kind = RECEIVE_WITH_AUTHORIZATION_TYPEHASH;
        bytes32 content = keccak256(abi.encode(kind, from, to, value, validAfter, validBefore, nonce));
        _authorized(from, to, value, validAfter, validBefore, nonce, content, signature);
    }

    /// @notice EIP-3009: make an authorization that was not used worthless.
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external {
        cancelAuthorization(authorizer, nonce, abi.encodePacked(r, s, v));
    }

    function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature) public whenNotPaused {
        _useAuthorization(authorizer, nonce);
        bytes32 content = keccak256(abi.encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce));
        require(_signedBy(authorizer, content, signature), "FiatTokenV2: invalid signature");
        emit AuthorizationCanceled(authorizer, nonce);
    }

    // What the above needs

    function _move(address from, address to, uint256 value) private {
        require(from != address(0), "ERC20: transfer from the zero address");
        require(to != address(0), "ERC20: transfer to the zero address");
        _update(from, to, value);
    }

    /// @dev Every change of a balance goes through here. Callers have refused blacklisted accounts, so the highest bit
    /// of both balances is clear, and a supply under 2^255 keeps it so.
    function _update(address from, address to, uint256 value) internal override {
        Layout storage $ = _layout();
        if (from == address(0)) {
            $.supply += value;
            require($.supply < BLACKLISTED, "FiatTokenV2_2: Balance exceeds (2^255 - 1)");
        } else {
            uint256 balance = $.balances[from];
            require(value <= balance, "ERC20: transfer amount exceeds balance");
            unchecked {
                $.balances[from] = balance - value;
            }
        }
        unchecked {
            if (to == address(0)) $.supply -= value;
            else $.balances[to] += value;
        }
        emit Transfer(from, to, value);
    }

    /// @dev As the genuine one: no allowance is endless, and spending it emits no `Approval`.
    function _spendAllowance(address owner_, address spender, uint256 value) internal override {
        uint256 current = allowance(owner_, spender);
        require(value <= current, "ERC20: transfer amount exceeds allowance");
        _approve(owner_, spender, current - value, false);
    }

    function _authorized(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes32 content,
        bytes memory signature
    ) private {
        require(block.timestamp > validAfter, "FiatTokenV2: authorization is not yet valid");
        require(block.timestamp < validBefore, "FiatTokenV2: authorization is expired");
        _useAuthorization(from, nonce);
        require(_signedBy(from, content, signature), "FiatTokenV2: invalid signature");
        emit AuthorizationUsed(from, nonce);
        _move(from, to, value);
    }

    function _useAuthorization(address authorizer, bytes32 nonce) private {
        mapping(bytes32 => bool) storage used = _layout().authorizationsUsed[authorizer];
        require(!used[nonce], "FiatTokenV2: authorization is used or canceled");
        used[nonce] = true;
    }

    function _signedBy(address signer, bytes32 content, bytes memory signature) private view returns (bool) {
        return SignatureChecker.isValidSignatureNow(signer, _hashTypedDataV4(content), signature);
    }

    function _setMasterMinter(address account) private {
        require(account != address(0), "FiatToken: new masterMinter is the zero address");
        _layout().masterMinter = account;
    }

    function _setPauser(address account) private {
        require(account != address(0), "Pausable: new pauser is the zero address");
        _layout().pauser = account;
    }

    function _setBlacklister(address account) private {
        require(account != address(0), "Blacklistable: new blacklister is the zero address");
        _layout().blacklister = account;
    }

    function _requireNotPaused() internal view override {
        require(!paused(), "Pausable: paused");
    }

    function _checkOwner() internal view override {
        require(owner() == msg.sender, "Ownable: caller is not the owner");
    }

    function _layout() private pure returns (Layout storage $) {
        assembly {
            $.slot := STORAGE
        }
    }
}
