"""Every setting of Coffer, read from the environment (prefix `COFFER_`, `__` between levels) or `.env`.

Production and sandbox run the same code; what differs between them is here and nowhere else.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class EndpointSettings(BaseModel):
    """A JSON-RPC address of a chain's node. Its path is often a credential, so it is never shown."""

    model_config = ConfigDict(extra="forbid")

    url: SecretStr
    weight: int = Field(default=1, ge=1)
    requests_per_second: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _address_alone(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


class RpcSettings(BaseModel):
    """The endpoints of one chain, and how they are asked. Times are seconds."""

    rpc_url: str = Field(description="The node's JSON-RPC address: the first endpoint.")
    endpoints: list[EndpointSettings] = Field(
        default_factory=list,
        description="JSON list of further endpoints: addresses, or "
        '`{"url", "weight", "requests_per_second"}`; with the address of `rpc_url` it tells of the first.',
    )
    rpc_timeout: float = Field(default=10.0, gt=0, description="Seconds until a call is given up.")
    rpc_concurrency: int = Field(default=20, ge=1, description="Requests to one endpoint under way at once.")
    rpc_quorum: int = Field(
        default=2,
        ge=1,
        description="Endpoints that have to agree on what decides about money; no more than there are.",
    )
    rpc_max_lag: int = Field(
        default=3, ge=0, description="Blocks that an endpoint may be behind the others before it is paused."
    )
    rpc_health_interval: float = Field(
        default=5.0, gt=0, description="Seconds between looks at how far each of several endpoints is."
    )
    rpc_pause: float = Field(
        default=1.0,
        gt=0,
        description="Seconds of an endpoint's first pause; each that follows soon is twice as long.",
    )
    rpc_max_pause: float = Field(default=60.0, gt=0, description="Longest pause of an endpoint, in seconds.")

    def all_endpoints(self) -> list[EndpointSettings]:
        """The first endpoint and the further ones, each address once."""
        found = {self.rpc_url: EndpointSettings(url=SecretStr(self.rpc_url))}
        return list((found | {one.url.get_secret_value(): one for one in self.endpoints}).values())


class EthereumSettings(RpcSettings):
    """One EVM chain. Times are seconds, heights blocks, prices wei."""

    chain_id: int = Field(description="Checked against the node's before anything is signed.")
    usdc: str = Field(description="Address of the USDC token contract.")
    batch_payout: str | None = Field(
        default=None, description="Address of the deployed BatchPayout; without it payments go one by one."
    )
    allowance_payout: str | None = Field(
        default=None, description="Address of the deployed AllowancePayout, the other way to pay in batches."
    )
    batching: Literal["delegation", "allowance", "none"] = Field(
        default="delegation",
        description="Batches by `delegation` to `batch_payout` (EIP-7702), through an `allowance` for "
        "`allowance_payout`, or `none`.",
    )
    allowance_limit: int = Field(
        default=1_000_000_000_000,
        ge=0,
        description="Smallest units of USDC that `allowance_payout` is allowed at a time; 0: without end.",
    )
    batch_size: int = Field(default=200, ge=1, le=400, description="Most payments in one batch.")
    batch_wait: float = Field(
        default=0.0,
        ge=0,
        description="Most seconds that a payment waits for others to fill a batch; urgent ones do not.",
    )
    max_in_flight: int = Field(
        default=1,
        ge=1,
        description="Unconfirmed transactions of one wallet. Public nodes take one from a delegated account.",
    )
    confirmations: int = Field(default=1, ge=1, description="Blocks, its own included, until CONFIRMED.")
    finality: str = Field(
        default="finalized",
        pattern=r"^(finalized|safe|depth:[1-9][0-9]{0,5})$",
        description="Block tag of FINALIZED, `finalized` or `safe`, or `depth:64`: blocks on top of it.",
    )
    poll_interval: float = Field(default=1.0, gt=0, description="Seconds between looks for a new block.")
    rebroadcast_after: int = Field(
        default=3, ge=1, description="Blocks unmined before the bytes go out again."
    )
    priority_fee_wei: int = Field(default=1_000_000_000, ge=0, description="Least EIP-1559 tip.")
    max_priority_fee_wei: int = Field(
        default=5_000_000_000, ge=0, description="Most EIP-1559 tip that is taken from the node's figures."
    )
    max_fee_wei: int = Field(default=500_000_000_000, gt=0, description="Cap on the fee per gas.")
    inbound_range: int = Field(
        default=1000, ge=1, description="Final blocks that one look for deposits reads at once."
    )
    fee_percentiles: list[float] = Field(
        default=[20, 50, 90],
        min_length=3,
        max_length=3,
        description="JSON list: whose tip in the last blocks is taken, at low, normal and high urgency.",
    )
    base_fee_percents: list[int] = Field(
        default=[125, 200, 300],
        min_length=3,
        max_length=3,
        description="JSON list: per cent of the base fee that are offered, at low, normal and high urgency.",
    )
    bump_after: int = Field(
        default=5, ge=1, description="Blocks unmined before the same nonce is offered for at least 10 % more."
    )
    transfer_gas: int = Field(
        default=100_000,
        ge=0,
        description="Gas limit of a lone transfer; 0 asks the node for each, as Arbitrum needs.",
    )
    gas_alert_wei: int = Field(
        default=20_000_000_000_000_000, ge=0, description="Native balance below which a wallet is told of."
    )
    native_currency: Literal["ETH", "POL"] = Field(
        default="ETH", description="The asset that fees are paid in: POL on Polygon."
    )

    @model_validator(mode="after")
    def _allowance_has_a_contract(self) -> EthereumSettings:
        if self.batching == "allowance" and self.allowance_payout is None:
            raise ValueError("batching by allowance needs allowance_payout")
        return self

    @model_validator(mode="after")
    def _urgencies_ascend(self) -> EthereumSettings:
        percentiles, percents = self.fee_percentiles, self.base_fee_percents
        if percentiles != sorted(percentiles) or not 0 <= percentiles[0] <= percentiles[-1] <= 100:
            raise ValueError("fee_percentiles ascend from 0 to 100")
        if percents != sorted(percents) or percents[0] < 100:
            raise ValueError("base_fee_percents ascend from 100")
        return self


class SolanaSettings(RpcSettings):
    """One Solana cluster. Times are seconds, prices micro-lamports per compute unit."""

    genesis_hash: str | None = Field(
        default=None, description="Checked against each node's before anything is signed."
    )
    usdc: str = Field(description="Address of the USDC mint.")
    transaction_format: Literal["auto", "legacy", "v0", "v1"] = Field(
        default="auto",
        description="Format of transactions; `auto` and `v1` are v1 where the cluster takes it, else v0.",
    )
    batch_size: int = Field(
        default=59,
        ge=1,
        le=59,
        description="Most payments in one transaction. As v1 59 fit, 12 to new recipients; else 18 and 9.",
    )
    token_batch: bool = Field(
        default=True, description="Make one instruction of a transaction's transfers (SIMD-0266)."
    )
    batch_wait: float = Field(
        default=0.0,
        ge=0,
        description="Most seconds that a payment waits for others to share a transaction.",
    )
    max_in_flight: int = Field(default=64, ge=1, description="Unconfirmed transactions of one wallet.")
    poll_interval: float = Field(default=0.5, gt=0, description="Seconds between looks for news.")
    rpc_concurrency: int = Field(default=8, ge=1, description="Requests to one endpoint under way at once.")
    rpc_max_lag: int = Field(
        default=50, ge=0, description="Slots that an endpoint may be behind the others before it is paused."
    )
    rebroadcast_after: float = Field(default=2.0, gt=0, description="Seconds unseen before sending again.")
    block_from: int = Field(
        default=16,
        ge=1,
        description="Own transactions of a slot from which on its block is read instead of each.",
    )
    compute_unit_price: int = Field(default=0, ge=0, description="Least priority fee.")
    max_compute_unit_price: int = Field(default=1_000_000, ge=0, description="Cap on the priority fee.")
    fee_percentiles: list[float] = Field(
        default=[50, 75, 90],
        min_length=3,
        max_length=3,
        description="JSON list: whose priority fee of late is taken, at low, normal and high urgency.",
    )
    allow_off_curve: bool = Field(
        default=False, description="Pay addresses off the ed25519 curve too, as the vault of a multisig is."
    )
    allow_token_accounts: bool = Field(
        default=False, description="Pay into USDC token accounts too, where one is given for a wallet."
    )
    allow_transfer_fee: bool = Field(
        default=False, description="Pay in a token whose mint withholds a fee of what is transferred."
    )
    allow_transfer_hook: bool = Field(
        default=False, description="Pay in a token whose mint calls a program with every transfer."
    )
    gas_alert_lamports: int = Field(
        default=50_000_000, ge=0, description="Native balance below which a wallet is told of."
    )

    @model_validator(mode="after")
    def _percentiles_ascend(self) -> SolanaSettings:
        ascending = sorted(self.fee_percentiles)
        if self.fee_percentiles != ascending or not 0 <= ascending[0] <= ascending[-1] <= 100:
            raise ValueError("fee_percentiles ascend from 0 to 100")
        return self


class PolicySettings(BaseModel):
    """What every organisation's payments are held against. Times are hours."""

    deny_list_file: Path | None = Field(
        default=None, description="File of addresses that are never paid: one a line, or OFAC's SDN list."
    )
    allow_list_file: Path | None = Field(
        default=None, description="File of the only addresses that are paid, one a line."
    )
    approval_hours: float | None = Field(
        default=None, gt=0, description="How long a payment waits for its approvals; without it, for ever."
    )


class KeySettings(BaseModel):
    """Where one key lies that is in no key file. `key` is its id (AWS) or its name (Vault), `version` the
    version of Vault's that is used."""

    backend: Literal["aws", "vault"]
    key: str
    version: int = Field(default=1, ge=1)


class SignerSettings(BaseModel):
    """The process that signs, and how the others reach it. Amounts are smallest units, times seconds."""

    socket: Path | None = Field(
        default=None, description="Unix socket of `coffer signer`; who has it set holds no keys."
    )
    address: str | None = Field(
        default=None, pattern=r"^[^:\s]+:[0-9]{1,5}$", description="`host:port` of `coffer signer` over TCP."
    )
    secret: SecretStr = Field(
        default=SecretStr(""), description="What both ends of a TCP connection know: 32 characters or more."
    )
    allowed_uids: list[int] = Field(
        default_factory=list, description="JSON list of user ids that may use the Unix socket beside its own."
    )
    timeout: float = Field(default=10.0, gt=0, description="Seconds until an answer is given up.")
    folder: Path = Field(
        default=Path("signer"), description="Folder of what the process remembers of the day's payments."
    )
    stop_file: Path | None = Field(
        default=None, description="While there is a file at this path, nothing at all is signed."
    )
    max_payment: int | None = Field(default=None, gt=0, description="Most USDC of one payment.")
    max_day: int | None = Field(
        default=None, gt=0, description="Most USDC that one key pays in a day (UTC); `coffer signer` alone."
    )
    max_fee_wei: int = Field(default=5 * 10**18, gt=0, description="Most that a transaction may cost.")
    max_fee_lamports: int = Field(default=10_000_000, gt=0, description="Most that a transaction may cost.")
    tables_rpc_url: SecretStr | None = Field(
        default=None, description="A node of Solana that is believed what its address lookup tables hold."
    )
    keys: dict[str, KeySettings] = Field(
        default_factory=dict,
        description='JSON of keys in no file: address to `{"backend": "aws" or "vault", "key", "version"}`.',
    )
    aws_region: str = Field(default="us-east-1", description="Region of AWS KMS.")
    aws_endpoint: str | None = Field(default=None, description="Address of AWS KMS, if not the region's.")
    vault_address: str | None = Field(default=None, description="Address of HashiCorp Vault, or OpenBao.")
    vault_token: SecretStr = Field(default=SecretStr(""), description="Token for Vault; renewed while used.")
    vault_mount: str = Field(default="transit", description="Where Vault's transit engine is mounted.")


class Settings(BaseSettings):
    """The whole configuration of one process."""

    model_config = SettingsConfigDict(
        env_prefix="COFFER_",
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        # An address may hold a credential.
        hide_input_in_errors=True,
    )

    database_url: str = Field(description="PostgreSQL as the application's role, which owns nothing.")
    worker_database_url: str | None = Field(
        default=None, description="PostgreSQL as the role of work that spans organisations."
    )
    owner_database_url: str | None = Field(
        default=None, description="PostgreSQL as the owner, for migrations."
    )
    database_pool: int = Field(default=10, ge=1, description="Connections of one process.")
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", description="Valkey or Redis.")

    api_host: str = Field(default="127.0.0.1", description="Address that the API listens on.")
    api_port: int = Field(default=8000, ge=1, le=65535, description="Port that the API listens on.")
    api_processes: int = Field(default=2, ge=1, description="Processes that share the API's port.")
    api_max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024, description="Largest request body.")
    credential_cache_seconds: float = Field(
        default=5.0, ge=0, description="How long a revoked key may still be taken by a process that saw it."
    )
    access_token_seconds: int = Field(default=3600, ge=60, description="Life of an OAuth2 access token.")

    worker_processes: int = Field(default=2, ge=1, description="Processes of one `coffer worker`.")
    worker_threads: int = Field(default=8, ge=1, description="Messages that a process works on at once.")
    sweep_interval: float = Field(default=1.0, gt=0, description="Seconds between looks for forgotten work.")
    tail_interval: float = Field(
        default=1.0, gt=0, description="Seconds between looks for transfers to seal and to watch."
    )
    deposit_pool: int = Field(
        default=20, ge=0, description="Deposit addresses kept ready for each organisation and chain."
    )
    min_deposit: int = Field(
        default=10_000, ge=1, description="Least deposit that is told of, in millionths of a USDC."
    )
    min_sweep: int = Field(
        default=1_000_000,
        ge=1,
        description="Least that is swept from a deposit address to the treasury, in millionths of a USDC.",
    )
    dispatch_batch: int = Field(default=2000, ge=1, description="Most intents claimed in one transaction.")

    keystore_dir: Path = Field(default=Path("keys"), description="Folder of the encrypted key files.")
    keystore_passphrase: SecretStr = Field(
        default=SecretStr(""), description="Opens the key files; a process that signs needs it."
    )
    encryption_keys: dict[str, SecretStr] = Field(
        default_factory=dict, description="Key id to base64 of 32 bytes; the last one encrypts."
    )

    policy: PolicySettings = Field(default_factory=PolicySettings)

    signer: SignerSettings = Field(default_factory=SignerSettings)
    ethereum: EthereumSettings | None = None
    solana: SolanaSettings | None = None

    fault_point: str | None = Field(
        default=None, description="For fault drills alone: where a worker dies, `point[:count][:pause]`."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="One JSON object a line, or text."
    )


class SigningSettings(Settings):
    """Those of `coffer signer`, which has nothing to do with a database."""

    database_url: str = Field(default="", description="Not used.")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
