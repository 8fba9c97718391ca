"""The typed configuration: every section and key, its default and its bounds.

``config/default.yaml`` explains the keys; the defaults here and the values there are the same. `shared.config.load`
reads a configuration from outside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from shared.addresses import is_loopback
from shared.values import Device, IceUrl, Loopback, Origin, Port, Published, Seconds, UnitMs

DEMO_KEY = "fast-vc-demo-key"  # known to everyone: of use on loopback alone


class Section(BaseModel):
    """Unknown keys and values of another type are errors; nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GatewayConfig(Section):
    """The HTTP and WebSocket side."""

    host: str = "127.0.0.1"
    port: Port = 8042
    published: list[Published] = []
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    max_sessions: Annotated[int, Field(ge=1, le=100_000)] = 64
    simple_protocol: Loopback = "loopback"
    prefill_ms: Annotated[int, Field(ge=0, le=2000)] = 375
    default_model: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    hold_ms: Annotated[int, Field(ge=100, le=60_000)] = 500
    refusals_per_s: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    latency_budget_ms: Annotated[int, Field(ge=100, le=60_000)] = 2000
    max_waiting_blocks: Annotated[int, Field(ge=1, le=1000)] = 8
    max_message_bytes: Annotated[int, Field(ge=4096, le=16 << 20)] = 1 << 20
    config_timeout_s: Seconds = 10.0
    idle_timeout_s: Seconds = 120.0
    processing_timeout_s: Seconds = 15.0
    send_timeout_s: Seconds = 10.0
    max_session_s: Seconds = 14_400.0
    shutdown_grace_s: Seconds = 10.0
    resume_window_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    codec_threads: Annotated[int, Field(ge=1, le=64)] = 2
    max_audio_rate: Annotated[float, Field(ge=1, le=1000)] = 100.0
    allowed_origins: list[Origin] = []
    trusted_proxies: list[str] = []
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    @model_validator(mode="after")
    def _tls_is_whole(self) -> GatewayConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: name both, or neither")
        return self

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches the gateway."""
        hosts = [address.rpartition(":")[0] for address in self.published]
        return all(is_loopback(host) for host in hosts or [self.host])

    @property
    def allows_simple(self) -> bool:
        """Whether the protocol without a key is spoken. It opens no door beyond loopback unless that is asked for."""
        return self.is_private if self.simple_protocol == "loopback" else self.simple_protocol


class AuthConfig(Section):
    """Who may open a session, and what else they may do."""

    required: bool = True
    mode: Literal["none", "keys", "jwt", "both"] = "keys"
    api_keys: list[Annotated[str, Field(min_length=8, max_length=200)]] = [DEMO_KEY]
    api_keys_scopes: list[Literal["call", "voices", "admin"]] = ["call", "voices"]
    keys_file: Path = Path("keys/api-keys.json")
    jwt_secret_file: Path | None = None
    jwks_file: Path | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a credential."""
        return not self.required or self.mode == "none"

    @property
    def takes_keys(self) -> bool:
        return not self.is_open and self.mode in ("keys", "both")

    @property
    def takes_tokens(self) -> bool:
        return not self.is_open and self.mode in ("jwt", "both")

    @model_validator(mode="after")
    def _tokens_have_a_key(self) -> AuthConfig:
        if self.takes_tokens and self.jwt_secret_file is None and self.jwks_file is None:
            raise ValueError(f"mode = {self.mode} needs jwt_secret_file or jwks_file: who signs the tokens?")
        return self


class LinkConfig(Section):
    """ZeroMQ between gateway and workers. The gateway binds host:port."""

    host: str = "127.0.0.1"
    port: Port = 5555
    allow_plain: bool = False
    secret_key_file: Path | None = None
    server_key_file: Path | None = None
    allowed_workers_dir: Path | None = None


class WorkerConfig(Section):
    """One worker: its engine, its geometry and its bounds."""

    model: Literal["nano", "tiny", "small", "base", "v2", "shift", "passthrough"] = "nano"
    device: Device = "cpu"
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    graphs: bool = True
    kernels: bool = True
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    checkpoints_dir: Path = Path("checkpoints")
    dit_checkpoint_path: Path | None = None
    dit_config_path: Path | None = None
    max_sessions: Annotated[int, Field(ge=1, le=10_000)] = 16
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 8
    gather_ms: Annotated[float, Field(ge=0, le=10)] = 0.0
    load_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    warm_up_s: Seconds = 60.0
    block_ms: Annotated[int, Field(ge=40, le=2000, multiple_of=20)] = 240
    left_ms: UnitMs = 640
    dit_left_ms: UnitMs | None = 320
    crossfade_ms: UnitMs = 40
    search_ms: UnitMs = 20
    right_ms: UnitMs = 60
    steps: Annotated[int, Field(ge=1, le=100)] = 1
    min_steps: Annotated[int, Field(ge=1, le=100)] | None = None
    guidance: Annotated[float, Field(ge=0, le=10)] = 0.0
    max_guidance: Annotated[float, Field(ge=0, le=10)] = 2.0
    intelligibility: Annotated[float, Field(ge=0, le=10)] = 0.7
    similarity: Annotated[float, Field(ge=0, le=10)] = 0.7
    retrieval_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_f0_shift: Annotated[float, Field(ge=0, le=24)] = 12.0
    schedule: Literal["linear", "cosine"] = "linear"
    rms_mix_rate: Annotated[float, Field(ge=0, le=1)] = 0.9
    vad: Literal["energy", "silero"] = "silero"
    silence_dbfs: Annotated[float, Field(ge=-120, le=0)] = -60.0
    vad_on: Annotated[float, Field(gt=0, lt=1)] = 0.5
    vad_off: Annotated[float, Field(gt=0, lt=1)] = 0.35
    vad_hangover_blocks: Annotated[int, Field(ge=0, le=100)] = 2
    voices_dir: Path | None = None
    max_prompt_s: Annotated[float, Field(ge=1, le=25)] = 6.0
    max_prompts: Annotated[int, Field(ge=1, le=10_000)] = 64
    guest_voices: Annotated[int, Field(ge=0, le=10_000)] = 16
    stuck_after_s: Seconds = 5.0
    shutdown_grace_s: Seconds = 30.0

    @property
    def fewest_steps(self) -> int:
        """`min_steps`; half of `steps` where it is not given."""
        return -(-self.steps // 2) if self.min_steps is None else self.min_steps

    @model_validator(mode="after")
    def _limits_fit(self) -> WorkerConfig:
        if self.min_steps is not None and self.min_steps > self.steps:
            raise ValueError(f"min_steps = {self.min_steps} must not exceed steps = {self.steps}")
        if self.vad_off > self.vad_on:
            raise ValueError(f"vad_off = {self.vad_off} must not exceed vad_on = {self.vad_on}")
        if self.dit_left_ms is not None and self.dit_left_ms > self.left_ms:
            raise ValueError(f"dit_left_ms = {self.dit_left_ms} must not exceed left_ms = {self.left_ms}")
        return self

    @model_validator(mode="after")
    def _delay_fits(self) -> WorkerConfig:
        delay_ms = self.crossfade_ms + self.search_ms + self.right_ms
        if delay_ms > self.block_ms:
            raise ValueError(
                f"crossfade_ms + search_ms + right_ms = {delay_ms} must not exceed block_ms = {self.block_ms}"
            )
        return self


class RecordingConfig(Section):
    """What calls leave on disk."""

    enabled: bool = False
    dir: Path = Path("outputs")
    keep_days: Annotated[float, Field(gt=0, le=36_500)] = 30.0
    max_gb: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    max_backlog_mb: Annotated[float, Field(gt=0, le=10_000)] = 64.0
    keys_dir: Path | None = None


class VoicesConfig(Section):
    """Voices that callers bring."""

    dir: Path = Path("uploads")
    per_principal: Annotated[int, Field(ge=0, le=10_000)] = 20
    total: Annotated[int, Field(ge=0, le=100_000)] = 1000
    max_upload_mb: Annotated[float, Field(gt=0, le=1000)] = 20.0


class IceServer(Section):
    """A STUN or TURN server, as browsers have it."""

    urls: list[IceUrl]
    username: str | None = None
    credential: str | None = None


class WebRtcConfig(Section):
    """Calls over WebRTC, where the extra `webrtc` is installed."""

    enabled: bool = True
    ice_servers: list[IceServer] = []


class LogConfig(Section):
    """The console's lines, and log files under `dir`, one a role, rotated by size."""

    level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
    to_file: bool = True
    dir: Path = Path("logs")
    max_file_mb: Annotated[int, Field(ge=1, le=10_000)] = 20
    keep_files: Annotated[int, Field(ge=1, le=1000)] = 5


class WorkerGroup(Section):
    """Local workers of one kind."""

    profile: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    device: Device | None = None
    count: Annotated[int, Field(ge=1, le=64)] = 1


def _shape_of_workers(value: Any) -> str | None:
    """In brackets, for it is no key."""
    if isinstance(value, list):
        return "(kinds)"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "(number)" if is_number or (isinstance(value, str) and value.isdigit()) else None


Workers = Annotated[
    Annotated[int, Field(ge=0, le=64), Tag("(number)")]
    | Annotated[list[WorkerGroup], Field(max_length=64), Tag("(kinds)")],
    Discriminator(
        _shape_of_workers,
        custom_error_type="workers",
        custom_error_message="must be how many, or a list of kinds: [{profile: prod, device: cuda:0, count: 2}]",
    ),
]


class ServeConfig(Section):
    """`fast-vc serve`: its local workers, and where the service keeps its state."""

    workers: Workers = 1
    state_dir: Path = Path("temp")
    ready_timeout_s: Seconds = 120.0

    @property
    def groups(self) -> list[WorkerGroup]:
        """The workers by kind."""
        if isinstance(self.workers, list):
            return self.workers
        return [WorkerGroup(count=self.workers)] if self.workers else []

    @property
    def worker_count(self) -> int:
        return sum(group.count for group in self.groups)


class Config(Section):
    """All of it."""

    gateway: GatewayConfig = Field(default_factory=GatewayConfig)
    auth: AuthConfig = Field(default_factory=AuthConfig)
    link: LinkConfig = Field(default_factory=LinkConfig)
    worker: WorkerConfig = Field(default_factory=WorkerConfig)
    serve: ServeConfig = Field(default_factory=ServeConfig)
    recording: RecordingConfig = Field(default_factory=RecordingConfig)
    voices: VoicesConfig = Field(default_factory=VoicesConfig)
    webrtc: WebRtcConfig = Field(default_factory=WebRtcConfig)
    log: LogConfig = Field(default_factory=LogConfig)
