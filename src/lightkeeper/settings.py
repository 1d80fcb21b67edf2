"""Every setting, typed, with default and meaning.

Read from `<home>/lightkeeper.toml` and from environment variables with the prefix LIGHTKEEPER_; the latter win.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.units import parse_rate


def _as_number(given: object) -> object:
    """Seconds as they come in an environment variable: '90' or '0.5'; anything else as it is."""
    try:
        return float(given) if isinstance(given, str) else given
    except ValueError:
        return given


def _as_rate(given: object) -> object:
    """Bytes per second of '50 MB/s'; anything else as it is."""
    if not isinstance(given, str) or given.strip().isdigit():
        return given
    try:
        return parse_rate(given)
    except Invalid as error:
        raise ValueError(f"{error.message}; {error.hint}") from None


Seconds = Annotated[timedelta, BeforeValidator(_as_number)]
Rate = Annotated[int, BeforeValidator(_as_rate)]


class Settings(BaseSettings):
    """The settings of one instance. Times are seconds, or ISO 8601 durations like PT5M."""

    model_config = SettingsConfigDict(env_prefix="LIGHTKEEPER_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".lightkeeper", description="Folder of this instance.")
    database_url: str = Field("", description="A PostgreSQL 15 or newer; empty: the embedded one in the home.")
    shared_buffers_mb: int = Field(256, ge=16, description="Memory of the embedded PostgreSQL.")

    host: str = Field("127.0.0.1", description="Address of the API; only this machine until identities are set up.")
    port: int = Field(8750, ge=0, le=65535, description="Port of the API; 0: any free one.")

    scan_every: Seconds = Field(
        timedelta(seconds=1),
        description="How often interface directories are looked through whose file system tells no events.",
    )
    rescan_every: Seconds = Field(
        timedelta(seconds=30), description="How often the others are, in case that an event was not told."
    )
    trigger_patience: Seconds = Field(
        timedelta(minutes=5),
        description="How long a trigger may wait for its data file before it is quarantined.",
    )
    quarantine: Path = Field(
        Path("quarantine"),
        description="Where refused deliveries go: a folder's name, made in `.lightkeeper` of the storage that they "
        "were made to; or an absolute path on this machine, which has a folder for each storage then.",
    )
    ingest_batch: int = Field(1000, ge=1, description="Deliveries registered in one transaction.")
    software: dict[str, str] = Field(
        {},
        description="Where jobs find software, by its name and version as productions ask for them: "
        "{'ctapipe v0.28.0': 'venv:/opt/ctapipe-0.28'}; likewise 'cvmfs:' and a folder of programs, or 'container:' "
        "and an image. Other software is what pilots find by PATH.",
    )
    ingest_processes: int = Field(
        2, ge=1, description="Processes that verify files. A file on which nothing moves does not count as one."
    )
    ingest_memory_mb: int = Field(
        512, ge=64, description="Memory that verifying a file may take; one that takes more is quarantined."
    )
    ingest_silence: Seconds = Field(
        timedelta(seconds=60),
        ge=timedelta(seconds=3),
        description="A file on which nothing moves for so long is given up: tried again, or quarantined when it is its "
        "own fault.",
    )

    transfer_threads: int = Field(4, ge=1, description="Files copied at once.")
    transfer_attempts: int = Field(10, ge=1, description="Attempts before a transfer is given up.")
    retry_after: Seconds = Field(timedelta(seconds=2), description="Wait before the second attempt; doubles each time.")
    stalled_after: Seconds = Field(
        timedelta(minutes=15), description="A copy that does not move for so long is taken over by another worker."
    )
    lease: Seconds = Field(timedelta(seconds=60), description="How long work is ours without a sign of life.")

    delete_threads: int = Field(4, ge=1, description="Storages on which deletions are carried out at once.")
    deletions_per_hour: int = Field(
        1000,
        ge=0,
        description="Deletions on one storage in an hour, or deletions_percent of its files if that is more; then two "
        "people must approve the rest. A storage may have its own number.",
    )
    deletions_percent: float = Field(1.0, ge=0, le=100, description="See deletions_per_hour.")
    promised_deletions_per_hour: int = Field(
        200_000,
        ge=0,
        description="The same for what a policy promised before the file came: on-site files that are freed, files "
        "that expire. Nobody has to approve the rest: it waits.",
    )
    deletion_delay: Seconds = Field(
        timedelta(minutes=5),
        ge=timedelta(0),
        description="How long deletions that a person asked for can be undone before they begin.",
    )

    stage_lifetime: Seconds = Field(
        timedelta(days=1),
        ge=timedelta(seconds=1),
        description="How long a tape storage is asked to keep a file online; renewed for as long as it is needed.",
    )
    stage_batch: int = Field(1000, ge=1, description="Files that a tape storage is asked for in one request.")
    stage_attempts: int = Field(5, ge=1, description="Attempts before the staging of a file is given up.")
    stage_every: Seconds = Field(
        timedelta(seconds=10),
        description="How often is looked for what is on tape by now, and for what nobody needs online any more.",
    )

    pilot_idle: Seconds = Field(timedelta(seconds=60), description="A pilot without work ends after so long.")
    pilot_silence: Seconds = Field(timedelta(seconds=60), description="A pilot unheard of for so long is lost.")
    heartbeat: Seconds = Field(timedelta(seconds=5), description="How often a pilot says that it is alive.")

    job_wall_time: Seconds = Field(
        timedelta(days=1),
        ge=timedelta(0),
        description="How long a job may run, if its step asks for nothing else; 0: as long as it wants, and so below.",
    )
    job_memory_mb: int = Field(
        8000,
        ge=0,
        description="Memory that all processes of a job may have together. A step can ask for another limit.",
    )
    job_processes: int = Field(
        500, ge=0, description="Processes that a job may have at once. A step can ask for another limit."
    )
    job_disk_mb: int = Field(
        50_000,
        ge=0,
        description="What a job may write into its folder, in one file and in all. A step can ask for another limit.",
    )
    job_files: int = Field(100_000, ge=0, description="Files and directories that a job may write into its folder.")
    job_log_kb: int = Field(
        64, ge=1, le=10_000, description="How much is kept of what a job prints: its first quarter and its end."
    )
    job_grace: Seconds = Field(
        timedelta(seconds=10),
        ge=timedelta(0),
        description="How long a job that is told to end may take for it, before it is killed with all its processes.",
    )

    probe_every: Seconds = Field(
        timedelta(seconds=60),
        gt=timedelta(0),
        description="How often each storage is probed; a quarter of that while something is wrong with it.",
    )
    probe_timeout: Seconds = Field(
        timedelta(seconds=30), gt=timedelta(0), description="A probe that takes longer has failed."
    )

    scrub_every: Seconds = Field(
        timedelta(days=90), ge=timedelta(0), description="How often each copy on disk is read again; 0: never."
    )
    scrub_rate: Rate = Field(
        50_000_000, gt=0, description="Bytes per second that this may read of one storage; also like 50 MB/s."
    )
    compare_every: Seconds = Field(
        timedelta(days=7),
        ge=timedelta(0),
        description="How often each storage's listing is compared with the catalogue; 0: never.",
    )
    dark_after: Seconds = Field(
        timedelta(days=1),
        ge=timedelta(0),
        description="A file that the catalogue does not know is called dark, and may be deleted, when it is so old.",
    )

    manifest_after: Seconds = Field(
        timedelta(minutes=5),
        ge=timedelta(0),
        description="A change of a copy waits so long at the most for the next manifest of its storage.",
    )

    mail_server: str = Field(
        "",
        pattern=r"^(smtps?://[A-Za-z0-9.\[\]:-]+)?$",
        description="Takes our mail: smtp://mail.example.org:587, or smtps://. A user and password stand in the "
        "credentials under the name mail. Empty: messages to mailboxes wait.",
    )

    close_nights_after: Seconds = Field(
        timedelta(hours=12),
        ge=timedelta(0),
        description="A complete night is closed when nothing of it changed for so long; 0: only people close nights.",
    )

    log_format: str = Field("auto", pattern="^(auto|text|json)$", description="text for people, json for machines.")

    @field_validator("quarantine")
    @classmethod
    def _is_a_folder(cls, folder: Path) -> Path:
        if not folder.is_absolute() and (len(folder.parts) != 1 or folder.name.startswith(".")):
            raise ValueError("it must be an absolute path, or a plain name like 'quarantine'")
        if ".." in folder.parts:
            raise ValueError("it must not lead upwards")
        return folder

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the file in the home."""
        given = init_settings()
        home = Path(given.get("home") or os.environ.get("LIGHTKEEPER_HOME") or Path.home() / ".lightkeeper")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, home / "lightkeeper.toml")
