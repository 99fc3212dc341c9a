"""The plan as it is written: one pydantic model per mapping, every key of it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    field_validator,
    model_validator,
)

from backup_pipeline.cost.prices import PRICES
from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.drillschema import (
    BoundsWritten,
    CompletenessWritten,
    DrillTestWritten,
)
from backup_pipeline.plan.problems import closest
from backup_pipeline.plan.references import Reference, Secret, Text, has_url_password, parse_text
from backup_pipeline.plan.sourcekinds import parse_source
from backup_pipeline.plan.values import (
    Clock,
    Day,
    Duration,
    Name,
    ParityShare,
    Share,
    Size,
    Zone,
    choice,
    mistake,
    parse_duration,
)
from backup_pipeline.plan.written import Written

__all__ = [
    "ALERT_KINDS",
    "FIRST_TIER",
    "WEEKDAYS",
    "AlertsWritten",
    "BoundsWritten",
    "CompletenessWritten",
    "DatasetWritten",
    "KeepWritten",
    "KeyWritten",
    "LockWritten",
    "OverrideWritten",
    "PlanWritten",
    "PolicyFields",
    "PolicyWritten",
    "PricesWritten",
    "ScratchWritten",
    "SetWritten",
    "StoreWritten",
    "TierFields",
    "TierOverride",
    "TierWritten",
    "Written",
    "check_long_name",
    "check_store_url",
    "check_tags",
]

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

ALERT_KINDS = ("missed_day", "failed", "at_risk", "rpo_missed")
"""What alerts may be about."""

FIRST_TIER = "*"
"""Stands for the first tier where an rpo is written as one duration."""

_LATER_STORES = ("gs", "gcs", "az", "abfs", "abfss", "sftp", "ssh", "http", "https", "rclone")
_LATER_KEYS = ("age", "kms", "aws_kms", "gcp_kms", "azure_key_vault", "vault", "pkcs11")
_TAG_VALUE = re.compile(r"[A-Za-z0-9_.-]{1,63}\Z")
_TAG_KEY = re.compile(r"([A-Za-z0-9_.-]{1,63}/)?[A-Za-z0-9_.-]{1,63}\Z")
_ASSET_PART = re.compile(r"[^\s/{}*?\"'\\\x00-\x1f\x7f]+\Z")
_POLICY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}\Z")

Every = Annotated[
    Literal["hour", "day", "week", "month"],
    choice(
        "hour",
        "day",
        "week",
        "month",
        meant={"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month"}
        | {f"1 {word}": word for word in ("hour", "day", "week", "month")},
    ),
]
Weekday = Annotated[str, choice(*WEEKDAYS)]
Kind = Annotated[
    Literal["full", "differential", "incremental"], choice("full", "differential", "incremental")
]
Holds = Annotated[Literal["whole", "slice"], choice("whole", "slice")]
Late = Annotated[Literal["refuse", "accept"], choice("refuse", "accept")]
IfMissed = Annotated[Literal["fail", "nearest"], choice("fail", "nearest")]
Overlap = Annotated[Literal["skip", "queue"], choice("skip", "queue")]
Count = Annotated[int, Field(ge=0, le=100_000, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Label = Annotated[str, Field(min_length=1, max_length=60, strict=True)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _off_or_on(value: Any) -> Any:
    """Takes ``false`` for a part that is switched off, and ``true`` for its defaults."""
    if isinstance(value, bool):
        return {} if value else {"enabled": False}
    return value


class LockWritten(Written):
    mode: Annotated[Literal["compliance", "governance"], choice("compliance", "governance")]
    days: Annotated[int, Field(ge=1, le=36_500, strict=True)]


def _store_url(value: Any) -> str | Reference:
    url = parse_text(value)
    if isinstance(url, str):
        check_store_url(url)
    return url


def check_store_url(url: str) -> None:
    """Refuses a URL that no store answers to, or that carries credentials.

    Raises:
        PydanticCustomError: What is wrong with it; the credentials are not repeated.
    """
    if has_url_password(url) or ("://" in url and "@" in url.split("://", 1)[1].split("/")[0]):
        raise mistake("a store's URL holds no credentials", "use secret_access_key: {env: NAME}")
    if "://" not in url:
        return
    scheme, rest = url.split("://", 1)
    supported = "supported: file:///path, a plain path, s3://bucket/prefix"
    if scheme in _LATER_STORES:
        raise mistake(f"stores at {scheme}:// are not supported yet", supported)
    if scheme not in ("file", "s3", "memory"):
        raise mistake(f"unknown kind of store {scheme}://", supported)
    if scheme == "file" and not rest.startswith("/"):
        raise mistake(f"'{url}' has no absolute path", f"did you mean 'file:///{rest}'?")
    if scheme == "s3" and not urlsplit(url).netloc:
        raise mistake(f"'{url}' names no bucket", "write s3://bucket/prefix")
    if "?" in rest or "#" in rest:
        raise mistake("a store's URL holds a place only", "write settings as keys beside url")


class PricesWritten(Written):
    """What a store costs, where it is not what the built-in prices of that name say."""

    like: Text | None = None
    source: Text | None = None
    currency: Text | None = None
    gb_bytes: Size | None = None
    store_gb_month: Amount | None = None
    write_1000: Amount | None = None
    read_1000: Amount | None = None
    retrieve_gb: Amount | None = None
    egress_gb: Amount | None = None
    least_age: Duration | None = None
    least_object: Size | None = None
    object_overhead: Size | None = None
    wait: Duration | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"like": value} if isinstance(value, str) else value

    @field_validator("like")
    @classmethod
    def _known(cls, value: str | Reference | None) -> str | Reference | None:
        if value is not None and value not in PRICES:
            near = closest(str(value), PRICES)
            known = f"known: {', '.join(PRICES)}"
            raise mistake(
                f"no prices are known of '{value}'", f"did you mean '{near}'?" if near else known
            )
        return value


class StoreWritten(Written):
    url: Annotated[str | Reference, PlainValidator(_store_url)]
    region: Text | None = None
    endpoint: Text | None = None
    profile: Text | None = None
    access_key_id: Text | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    addressing: Annotated[Literal["path", "virtual"], choice("path", "virtual")] | None = None
    lock: LockWritten | None = None
    prices: PricesWritten | None = None
    media: Label | None = None
    site: Label | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


class KeyWritten(Written):
    passphrase: Secret | None = None
    key_file: Secret | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        form = "write {passphrase: {env: BACKUP_PASSPHRASE}} or {key_file: {file: path}}"
        if not is_mapping(value):
            raise mistake("a key does not belong in the plan", form)
        keys = value
        later = [key for key in keys if key in _LATER_KEYS]
        if later:
            raise mistake(f"keys by {later[0]} are not supported yet", form)
        if len([key for key in ("passphrase", "key_file") if key in keys]) > 1 or not keys:
            raise mistake("a key is either a passphrase or a key_file", form)
        return keys


class ScratchWritten(Written):
    url: Text
    max: Size | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


class AlertsWritten(Written):
    """Who is told of what needs a person."""

    enabled: Flag = True
    to: list[Secret] = Field(default_factory=list[Reference])
    about: list[Annotated[str, choice(*ALERT_KINDS)]] | None = None
    at_risk: Share | None = None


class KeepWritten(Written):
    last: Count = 0
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0
    monthly: Count = 0
    yearly: Count = 0


class TierFields(Written):
    """What a tier says of itself, and what a dataset's override may say instead."""

    store: Name | None = None
    every: Every | None = None
    at: Clock | None = None
    weekday: Weekday | None = None
    day_of_month: Annotated[int, Field(ge=1, le=28, strict=True)] | None = None
    kind: Kind | None = None
    full_every: Duration | None = None
    from_: Name | None = Field(default=None, alias="from")
    if_missed: IfMissed | None = None
    keep: KeepWritten | None = None
    lock: LockWritten | None = None
    parity: ParityShare | None = None


class TierWritten(TierFields):
    name: Name


class OnChangeWritten(Written):
    enabled: Flag = True
    at_most_every: Duration = timedelta(hours=1)


class DrillWritten(Written):
    enabled: Flag = True
    every: Annotated[
        Literal["day", "week", "month"],
        choice(
            "day",
            "week",
            "month",
            meant={"daily": "day", "weekly": "week", "monthly": "month"},
        ),
    ] = "month"
    sample: Share = 0.01
    tests: Annotated[list[DrillTestWritten], Field(max_length=100)] = Field(
        default_factory=list[DrillTestWritten]
    )


class ExpireWritten(Written):
    """How often snapshots beyond ``keep`` are expired; off unless it is written."""

    enabled: Flag = True
    every: Annotated[Literal["day", "week"], choice("day", "week")] = "day"


class PruneWritten(Written):
    """How often what no snapshot needs is deleted; off unless it is written."""

    enabled: Flag = True
    every: Annotated[Literal["day", "week", "month"], choice("day", "week", "month")] = "week"


class BackfillWritten(Written):
    """How often missed days are filled; off unless it is written."""

    enabled: Flag = True
    every: Annotated[Literal["day", "week"], choice("day", "week")] = "day"


class AnomalyWritten(Written):
    """Shares beyond which a snapshot counts as suspicious; unset: by the dataset's own history."""

    enabled: Flag = True
    changed: Share | None = None
    deleted: Share | None = None
    renamed: Share | None = None
    shrunk: Share | None = None
    fell: Share | None = None
    incompressible: Share | None = None
    opaque: Share | None = None
    misnamed: Share | None = None
    blank: Share | None = None
    severity: Annotated[Literal["warn", "error"], choice("warn", "error")] = "warn"


class RunWritten(Written):
    tags: dict[str, str] = Field(default_factory=dict[str, str])
    pool: Name | None = None
    retries: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    on_overlap: Overlap = "skip"


def check_tags(tags: dict[str, str]) -> tuple[str, str] | None:
    """Finds a tag that Dagster refuses: returns its key and what is wrong."""
    for key, value in tags.items():
        if not _TAG_KEY.match(key):
            return key, "a tag's name takes letters, digits, '_', '-' and '.', 63 at most"
        if not _TAG_VALUE.match(value):
            return key, f"'{value[:70]}' takes letters, digits, '_', '-' and '.' only, 63 at most"
        if key.startswith("dagster/"):
            return key, "tags of Dagster's own cannot be set here"
    return None


def _rpo(value: Any) -> Any:
    """One duration counts for the first tier, whichever that is."""
    return value if is_mapping(value) else {FIRST_TIER: value}


class PolicyFields(Written):
    """What a policy says besides its tiers, and what a dataset's override may say instead."""

    late: Late | None = None
    on_change: Annotated[OnChangeWritten, BeforeValidator(_off_or_on)] | None = None
    rpo: Annotated[dict[str, Duration], BeforeValidator(_rpo)] | None = None
    rto: Duration | None = None
    drill: Annotated[DrillWritten, BeforeValidator(_off_or_on)] | None = None
    completeness: Annotated[CompletenessWritten, BeforeValidator(_off_or_on)] | None = None
    anomaly: Annotated[AnomalyWritten, BeforeValidator(_off_or_on)] | None = None
    backfill: Annotated[BackfillWritten, BeforeValidator(_off_or_on)] | None = None
    expire: Annotated[ExpireWritten, BeforeValidator(_off_or_on)] | None = None
    prune: Annotated[PruneWritten, BeforeValidator(_off_or_on)] | None = None
    run: RunWritten | None = None


class PolicyWritten(PolicyFields):
    tiers: list[TierWritten] = Field(min_length=1)


class TierOverride(TierFields):
    enabled: Flag = True


class OverrideWritten(PolicyFields):
    tiers: dict[str, Annotated[TierOverride, BeforeValidator(_off_or_on)]] = Field(
        default_factory=dict[str, TierOverride]
    )


def _asset(value: Any) -> str:
    form = "write a Dagster asset key, such as vision/train_images"
    if is_list(value):
        raise mistake("an asset key is text", "write its parts with '/' between them")
    if not isinstance(value, str) or not value:
        raise mistake("not an asset key", form)
    if len(value) > 200:
        raise mistake("an asset key has 200 characters at most", form)
    parts = value.split("/")
    if any(not _ASSET_PART.match(part) or part in (".", "..") for part in parts):
        raise mistake(f"'{value}' is not an asset key", form)
    return value


def check_long_name(value: Any) -> str:
    """Checks a name that may hold ``-``: a policy's or a deployment's."""
    if isinstance(value, str) and _POLICY_NAME.match(value):
        return value
    raise mistake("not a name", "a letter, then letters, digits, '_' and '-', 40 at most")


def _keep_slices(value: Any) -> str | timedelta:
    if isinstance(value, str) and value.strip().lower() in ("forever", "for ever"):
        return "forever"
    return parse_duration(value)


def _symlinks(value: Any) -> str:
    if value == "keep":
        return "keep"
    raise mistake("links are kept as links and never followed", "write symlinks: keep")


Asset = Annotated[str, PlainValidator(_asset)]
PolicyName = Annotated[str, PlainValidator(check_long_name)]
Globs = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]


class DatasetWritten(Written):
    asset: Asset | None = None
    assets: Annotated[list[Asset], Field(min_length=1)] | None = None
    source: Annotated[dict[str, Any], PlainValidator(parse_source)] | None = None
    policy: PolicyName | None = None
    holds: Holds = "whole"
    keep_slices: Annotated[str | timedelta, PlainValidator(_keep_slices)] | None = None
    slices_checked: Duration | None = None
    late: Late | None = None
    legal_hold: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    group: Name | None = None
    solid: Flag = True
    symlinks: Annotated[str, PlainValidator(_symlinks)] = "keep"
    exclude: Globs = Field(default_factory=list[str])
    override: OverrideWritten | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_key(cls, value: Any) -> Any:
        if is_mapping(value):
            keys = value
            if "asset" in keys and "assets" in keys:
                raise mistake("asset and assets exclude each other", "put all keys under assets")
        return value


def _command(value: Any) -> tuple[str, ...]:
    """A program and its arguments; no shell reads them, so none can be misread."""
    form = "write a list, such as [/usr/local/bin/pause-writers, --now]"
    if not is_list(value):
        raise mistake("a command is a list of words; no shell takes it apart", form)
    if not value or any(not isinstance(word, str) or "\0" in word for word in value):
        raise mistake("not a program and its arguments", form)
    if not value[0].strip():
        raise mistake("the program's name is empty", form)
    return tuple(value)


Command = Annotated[tuple[str, ...], PlainValidator(_command)]


class SetWritten(Written):
    """Datasets that are captured as one cut and restored as one."""

    members: list[Asset]
    retries: Annotated[int, Field(ge=0, le=100, strict=True)] = 3
    wait: Duration = timedelta(seconds=10)
    freeze: Command | None = None
    thaw: Command | None = None
    hook_timeout: Duration = timedelta(minutes=5)


class PlanWritten(Written):
    """The whole plan; what is missing is told by a rule, so that the rest is checked as well."""

    start: Day | None = None
    timezone: Zone = "UTC"
    deployment: PolicyName | None = None
    automation: Flag = True
    encryption: Annotated[Literal["aes-256-gcm", "none"], choice("aes-256-gcm", "none")] = (
        "aes-256-gcm"
    )
    late: Late | None = None
    accept_history_change: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list[str]
    )
    stores: dict[str, StoreWritten] = Field(default_factory=dict[str, StoreWritten])
    keys: dict[str, KeyWritten] = Field(default_factory=dict[str, KeyWritten])
    scratch: ScratchWritten | None = None
    alerts: Annotated[AlertsWritten, BeforeValidator(_off_or_on)] | None = None
    policies: dict[str, PolicyWritten] = Field(default_factory=dict[str, PolicyWritten])
    datasets: list[DatasetWritten] = Field(default_factory=list[DatasetWritten])
    sets: dict[str, SetWritten] = Field(default_factory=dict[str, SetWritten])
