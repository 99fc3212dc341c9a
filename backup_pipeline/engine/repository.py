"""Repositories: everything stored for one dataset in one tier, opened with a store and a key.

store                       descriptor: store id, key derivation, format     (and store.twin)
keys/<number>               wraps of the store's name key                    (and .twin)
repositories/<prefix>/      one per dataset; prefix = keyed hash of its name
    keys/<number>           wraps of the dataset's keys                      (and .twin)
    log/… twin/…            the log
    manifests/<sha256>      segments
    packs/<run>/<sha256>    packs
"""

from __future__ import annotations

import secrets as random_source
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.crypto import Buffer, Sealer, derive, sha256_hex
from backup_pipeline.engine.errors import (
    DamageError,
    NotFound,
    ObjectExists,
    ObjectMissing,
    UsageError,
    WrongKey,
)
from backup_pipeline.engine.format.header import (
    HEADER_BYTES,
    KEY_SET,
    STORE,
    canonical_json,
    check_header,
    decode_json,
    header,
)
from backup_pipeline.engine.format.pack import (
    FRAMES_START,
    PACK_NAME_BYTES,
    RUN_BYTES,
    content_sealer,
    run_and_salt,
)
from backup_pipeline.engine.format.record import Segment, Snapshot, to_iso
from backup_pipeline.engine.format.sealed import open_sealed, seal
from backup_pipeline.engine.keys import (
    DatasetKeys,
    KeyEncryptionKey,
    Plaintext,
    Secret,
    unwrap,
    wrap,
)
from backup_pipeline.engine.log import Log
from backup_pipeline.engine.state import RepositoryState, best_of
from backup_pipeline.engine.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from backup_pipeline.engine.manifest import Manifest

__all__ = ["Repository", "UnlockedStore", "pack_name_text", "unlock_store", "utc_now"]

_TWIN = ".twin"
_PUBLIC_NAME_KEY = derive(b"backup_pipeline: no encryption. ", "public name key")


def utc_now() -> datetime:
    """The present, aware and in UTC."""
    return datetime.now(UTC)


def pack_name_text(name: bytes) -> str:
    """A pack's 48-byte name as ``<run>/<sha256>``."""
    return f"{name[:RUN_BYTES].hex()}/{name[RUN_BYTES:].hex()}"


def _document(kind: bytes, body: dict[str, Any]) -> bytes:
    return header(kind) + canonical_json(body)


def _put_twice(store: Store, name: str, content: bytes) -> None:
    store.put(name, content)
    store.put(name + _TWIN, content)


def _get_either(store: Store, name: str, kind: bytes) -> dict[str, Any]:
    """A document, from its first place or its twin; ObjectMissing where both are missing."""
    failure: Exception | None = None
    for place in (name, name + _TWIN):
        try:
            content = store.get(place)
            check_header(content, kind, place)
            return decode_json(content[HEADER_BYTES:], place)
        except ObjectMissing as error:
            failure = failure or error
        except DamageError as error:
            failure = error
    assert failure is not None
    raise failure


def unlock_store(store: Store, secrets: Sequence[Secret], *, create: bool = False) -> UnlockedStore:
    """Open a store with the keys given.

    Args:
        store: The store.
        secrets: Passphrases and key files to try, or PLAINTEXT alone.
        create: Whether to prepare a store that holds nothing of ours yet.

    Raises:
        NotFound: Nothing of ours is there, and ``create`` is off.
        WrongKey: None of the secrets opens it.
    """
    try:
        descriptor = _get_either(store, "store", STORE)
    except ObjectMissing:
        if not create:
            raise NotFound(
                f"{store.url} holds no backups",
                "check the URL; the first backup of a plan prepares its stores",
            ) from None
        descriptor = _create_descriptor(store, secrets)
    encrypted = descriptor.get("encryption") != "none"
    wants_plain = any(isinstance(secret, Plaintext) for secret in secrets)
    if not encrypted:
        if not wants_plain:
            raise UsageError(
                f"{store.url} was made with `encryption: none`, but a key is given",
                "say `encryption: none`, or choose another store for encrypted backups",
            )
        return UnlockedStore(store, descriptor, [], _PUBLIC_NAME_KEY)
    keks = [
        KeyEncryptionKey.from_secret(secret, descriptor.get("kdf", {}))
        for secret in secrets
        if not isinstance(secret, Plaintext)
    ]
    if not keks:
        raise WrongKey(
            f"{store.url} is encrypted and no key is given",
            "set BACKUP_PASSPHRASE or give --key-file",
        )
    subject = bytes.fromhex(str(descriptor.get("store", "")))
    key_sets = _key_sets(store, "keys/")
    if not key_sets and create:
        name_key = random_source.token_bytes(32)
        wraps = [wrap(kek, "store", subject, name_key) for kek in keks]
        with suppress(ObjectExists):  # another writer prepared the store at the same time
            _put_twice(store, "keys/00000000", _document(KEY_SET, {"wraps": wraps}))
        key_sets = _key_sets(store, "keys/")
    name_key = _unwrap_newest(keks, "store", subject, key_sets, store.url)
    return UnlockedStore(store, descriptor, keks, name_key)


def _create_descriptor(store: Store, secrets: Sequence[Secret]) -> dict[str, Any]:
    store.probe().require()
    plain = any(isinstance(secret, Plaintext) for secret in secrets)
    descriptor = {
        "format": "backup_pipeline store",
        "version": 1,
        "store": random_source.token_hex(16),
        "encryption": "none" if plain else "aes-256-gcm",
        "kdf": None if plain else KeyEncryptionKey.new_parameters(),
    }
    try:
        _put_twice(store, "store", _document(STORE, descriptor))
    except ObjectExists:
        return _get_either(store, "store", STORE)
    return descriptor


def _key_sets(store: Store, folder: str) -> list[dict[str, Any]]:
    """Key sets, newest first."""
    names = {name.removesuffix(_TWIN) for name in store.list_names(folder)}
    return [_get_either(store, folder + name, KEY_SET) for name in sorted(names, reverse=True)]


def _unwrap_newest(
    keks: Sequence[KeyEncryptionKey],
    purpose: str,
    subject: bytes,
    key_sets: Sequence[dict[str, Any]],
    where: str,
) -> bytes:
    failure: WrongKey | None = None
    for key_set in key_sets:
        try:
            return unwrap(keks, purpose, subject, key_set.get("wraps", []))
        except WrongKey as error:
            failure = error
    if failure is None:
        raise DamageError(f"{where} has lost its key sets", "copy it back from another tier")
    raise WrongKey(f"none of the keys given opens {where}", failure.hint)


class UnlockedStore:
    """A store with its key: finds, lists and creates repositories."""

    def __init__(
        self,
        store: Store,
        descriptor: dict[str, Any],
        keks: Sequence[KeyEncryptionKey],
        name_key: bytes,
    ) -> None:
        self.store = store
        self.id = str(descriptor.get("store", ""))
        self.encrypted = descriptor.get("encryption") != "none"
        self._keks = keks
        self._name_key = name_key

    def prefix(self, dataset: str) -> str:
        """Where a dataset's repository lies."""
        return f"repositories/{derive(self._name_key, 'prefix', dataset.encode())[:16].hex()}/"

    def repository(self, dataset: str) -> Repository:
        """Open a dataset's repository.

        Raises:
            NotFound: There is none in this store.
        """
        found = self._open(self.prefix(dataset))
        if found is None:
            raise NotFound(
                f"{self.store.url} holds no backups of {dataset}",
                "list what it holds with `backup-pipeline snapshots`",
            )
        return found

    def repositories(self) -> list[Repository]:
        """Every repository that the keys open, by dataset."""
        opened = [
            self._open(f"repositories/{name}/") for name in self.store.list_names("repositories/")
        ]
        return sorted((one for one in opened if one is not None), key=lambda one: one.dataset)

    def create(
        self,
        dataset: str,
        *,
        tier: str,
        deployment: str | None = None,
        keys: DatasetKeys | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> Repository:
        """Open a dataset's repository, made if need be.

        Args:
            dataset: Its key.
            tier: The tier's name.
            deployment: Who alone may write here.
            keys: The dataset's keys from another tier; fresh ones where no tier has any.
            now: The clock.

        Raises:
            UsageError: It exists with other keys than those given.
        """
        prefix = self.prefix(dataset)
        existing = self._open(prefix)
        if existing is None:
            existing = self._create(prefix, dataset, tier, deployment, keys, now)
        if keys is not None and existing.keys.index != keys.index:
            raise UsageError(
                f"{dataset} has other keys in {self.store.url} than in its other tiers",
                "it was begun on its own; choose an empty prefix for this tier and copy into it",
            )
        return existing

    def _create(
        self,
        prefix: str,
        dataset: str,
        tier: str,
        deployment: str | None,
        keys: DatasetKeys | None,
        now: Callable[[], datetime],
    ) -> Repository:
        if keys is not None and keys.encrypted != self.encrypted:
            raise UsageError(
                f"{dataset} cannot be copied between encrypted and unencrypted stores",
                "use one `encryption` setting for all tiers of a dataset",
            )
        fresh = keys or DatasetKeys.generate(encrypted=self.encrypted)
        assert fresh.content is not None
        subject = prefix.encode()
        wraps = [
            wrap(kek, purpose, subject, key)
            for kek in self._keks
            for purpose, key in (("index", fresh.index), ("content", fresh.content))
        ]
        name = f"{prefix}keys/00000000"
        with suppress(ObjectExists):  # another writer made it at the same time: its keys count
            _put_twice(self.store, name, _document(KEY_SET, {"wraps": wraps}))
        opened = self._open(prefix, fresh=True)
        assert opened is not None
        if opened.log.next_sequence == 0:
            first = {
                "type": "keys",
                "key_set": sha256_hex(self.store.get(name)),
                "dataset": dataset,
                "tier": tier,
                "deployment": deployment,
                "created_at": to_iso(now()),
            }
            with suppress(_Begun):
                opened.log.append(first, recheck=opened.already_begun)
        return opened

    def _open(self, prefix: str, *, fresh: bool = False) -> Repository | None:
        key_sets = _key_sets(self.store, f"{prefix}keys/")
        if not key_sets:
            return None
        if self.encrypted:
            subject, where = prefix.encode(), f"a repository in {self.store.url}"
            index = _unwrap_newest(self._keks, "index", subject, key_sets, where)
            try:
                content = _unwrap_newest(self._keks, "content", subject, key_sets, where)
            except WrongKey:
                content = None
            keys = DatasetKeys(index, content)
        else:
            keys = DatasetKeys.generate(encrypted=False)
        repository = Repository(self.store, prefix, keys)
        repository.log.open()
        if repository.log.next_sequence == 0 and not fresh:
            return None
        return repository


class _Begun(Exception):
    """Another writer wrote the first record."""


class Repository:
    """All of one dataset in one tier."""

    def __init__(self, store: Store, prefix: str, keys: DatasetKeys) -> None:
        self.store = store
        self.prefix = prefix
        self.keys = keys
        self.state = RepositoryState()
        self.log = Log(
            store,
            prefix,
            keys,
            on_record=self._on_record,
            checkpoint=lambda: self.state.checkpoint(),
        )
        self._run_keys: dict[str, bytes] = {}
        self._sealers: dict[bytes, Sealer] = {}

    def __repr__(self) -> str:
        return f"Repository({self.dataset!r} in {self.tier!r} at {self.store.url})"

    def _on_record(self, record: Any) -> None:
        self.state.apply(record)

    def already_begun(self) -> None:
        """Stop a first record when another writer has written it."""
        if self.log.next_sequence > 0:
            raise _Begun

    @property
    def dataset(self) -> str:
        """The dataset's key."""
        return self.state.dataset

    @property
    def tier(self) -> str:
        """The tier's name."""
        return self.state.tier

    @property
    def deployment(self) -> str | None:
        """The deployment that alone may write here."""
        return self.state.deployment

    def refresh(self) -> bool:
        """Read what other writers appended; whether there was anything."""
        return self.log.refresh()

    def snapshots(self) -> list[Snapshot]:
        """Snapshots that are not expired, in commit order."""
        return self.state.live()

    def snapshot(self, prefix: str) -> Snapshot:
        """A snapshot by its id or an unambiguous beginning of it.

        Raises:
            NotFound: There is none, or more than one.
        """
        found = [one for one in self.snapshots() if one.id.startswith(prefix.lower())]
        if len(found) == 1 and prefix:
            return found[0]
        what = "no snapshot" if not found else f"{len(found)} snapshots"
        raise NotFound(
            f"{self.dataset} has {what} {prefix!r} in tier {self.tier}",
            "list them with `backup-pipeline snapshots`",
        )

    def best_for(self, day: date) -> Snapshot | None:
        """The snapshot that serves a day."""
        return best_of(self.snapshots(), day)

    def best_at(self, moment: datetime) -> Snapshot | None:
        """The newest complete snapshot captured at or before a time; else an incomplete one."""
        before = [one for one in self.snapshots() if one.captured_at <= moment]
        return max(
            before,
            key=lambda one: (one.status == "complete", one.captured_at, one.sequence),
            default=None,
        )

    def manifest(self, snapshot: Snapshot) -> Manifest:
        """The entries of a snapshot.

        Raises:
            DamageError: A segment is missing or damaged.
        """
        from backup_pipeline.engine.manifest import Manifest

        return Manifest([self.segment(segment) for segment in snapshot.segments])

    def segment_path(self, name: str) -> str:
        """Where a segment is stored."""
        return f"{self.prefix}manifests/{name}"

    def segment(self, segment: Segment) -> pa.Table:
        """The rows of one segment, checked against its name."""
        from backup_pipeline.engine.format.manifest import check_rows, decode_segment

        path = self.segment_path(segment.name)
        try:
            stored = self.store.get(path)
        except ObjectMissing:
            raise DamageError(f"{path} is missing", "copy the snapshot from another tier") from None
        if sha256_hex(stored) != segment.name:
            raise DamageError(f"{path} does not match its name", "copy it from another tier")
        if self.keys.encrypted:
            stored = memoryview(open_sealed(self.keys, stored, path))[: segment.length]
        rows = decode_segment(stored, path)
        check_rows(rows, path)
        if len(rows) != segment.rows:
            raise DamageError(f"{path} holds {len(rows)} rows, not {segment.rows}")
        return rows

    def put_segment(self, rows: pa.Table, *, origin: str | None = None) -> Segment:
        """Store rows as a new segment; durable on return."""
        from backup_pipeline.engine.format.manifest import encode_segment

        content = memoryview(encode_segment(rows)).cast("B")
        stored: Buffer = seal(self.keys, content) if self.keys.encrypted else content
        name = sha256_hex(stored)
        self.store.put(self.segment_path(name), stored)
        return Segment(name, len(content), len(stored), len(rows), None, origin)

    def pack_path(self, name: bytes) -> str:
        """Where a pack is stored."""
        return f"{self.prefix}packs/{pack_name_text(name)}"

    def run_key(self, run: bytes) -> bytes:
        """The content key of a run.

        Raises:
            DamageError: The log does not know the run.
        """
        text = run.hex()
        key = self._run_keys.get(text)
        if key is None:
            body = self.state.runs.get(text)
            if body is None:
                raise DamageError(f"the log of {self.dataset} in {self.tier} knows no run {text}")
            key = self.keys.unwrap_run_key(run, body["wraps"])
            self._run_keys[text] = key
        return key

    def pack_sealer(self, name: bytes, start: Buffer | None = None) -> Sealer:
        """The sealer of a pack's frames.

        Args:
            name: The pack.
            start: Its first 64 bytes, if at hand; else they are read.
        """
        assert len(name) == PACK_NAME_BYTES
        found = self._sealers.get(name)
        if found is None:
            path = self.pack_path(name)
            if start is None:
                try:
                    start = self.store.get(path, 0, FRAMES_START)
                except ObjectMissing:
                    raise DamageError(f"{path} is missing") from None
            run, salt = run_and_salt(start, path)
            found = content_sealer(self.keys, self.run_key(run), salt)
            if len(self._sealers) > 4096:
                self._sealers.clear()
            self._sealers[name] = found
        return found
