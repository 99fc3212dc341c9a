"""Repositories: everything stored for one dataset in one tier, opened with a store and a key.

store                       descriptor: store id, encryption, key derivation (and store.twin)
keys/<number>               wraps of the store's name key                    (and .twin)
repositories/<prefix>/      one per dataset; prefix = keyed hash of its name
    keys/<number>           wraps of the dataset's keys                      (and .twin)
    log/… twin/…            the log
    manifests/<sha256>      segments
    packs/<run>/<sha256>    packs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.crypto import Buffer, Sealer, derive, sha256_hex
from backup_pipeline.engine.documents import (
    check_documents,
    key_set_name,
    key_sets,
    put_twice,
)
from backup_pipeline.engine.errors import (
    BackupError,
    DamageError,
    NotFound,
    ObjectMissing,
    UsageError,
    WrongKey,
)
from backup_pipeline.engine.format.document import (
    Descriptor,
    KeySet,
    decode_key_set,
    encode_key_set,
)
from backup_pipeline.engine.format.pack import (
    FRAMES_START,
    PACK_NAME_BYTES,
    TRAILER_BYTES,
    PackIndex,
    content_sealer,
    decode_index,
    index_range,
    run_of,
)
from backup_pipeline.engine.format.record import (
    Segment,
    Snapshot,
    pack_name_text,
    to_iso,
)
from backup_pipeline.engine.keys import (
    DatasetKeys,
    KeyEncryptionKey,
    Secret,
)
from backup_pipeline.engine.log import Log
from backup_pipeline.engine.state import RepositoryState, best_of
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.unlocking import from_newest, unlock

if TYPE_CHECKING:
    import pyarrow as pa

    from backup_pipeline.engine.manifest import Manifest
    from backup_pipeline.engine.segments import Segments

__all__ = [
    "Repository",
    "UnlockedStore",
    "unlock_store",
    "utc_now",
]


def utc_now() -> datetime:
    """The present, aware and in UTC."""
    return datetime.now(UTC)


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
    return UnlockedStore(store, *unlock(store, secrets, create=create))


class UnlockedStore:
    """A store with its key: finds, lists and creates repositories.

    Attributes:
        store: The store itself.
        id: Its id (hex).
        encrypted: Whether what is stored is sealed with keys that are not in the store.
        name_key: Makes prefixes out of datasets' names.
    """

    def __init__(
        self,
        store: Store,
        descriptor: Descriptor,
        keks: Sequence[KeyEncryptionKey],
        name_key: bytes,
    ) -> None:
        self.store = store
        self.id = descriptor.store.hex()
        self.encrypted = descriptor.encrypted
        self._descriptor = descriptor
        self._keks = keks
        self.name_key = name_key

    def prefix(self, dataset: str) -> str:
        """Where a dataset's repository lies."""
        return f"repositories/{derive(self.name_key, 'prefix', dataset.encode())[:16].hex()}/"

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
        found.state.dataset = dataset  # as the log says, unless its first record is lost
        return found

    def repositories(
        self, report: Callable[[str, BackupError], None] | None = None
    ) -> list[Repository]:
        """Every repository that the keys open, by dataset.

        Args:
            report: Called with the prefix of each that cannot be opened, and why; without it the
                first such error is raised.
        """
        opened: list[Repository] = []
        for name in self.store.list_names("repositories/"):
            prefix = f"repositories/{name}/"
            try:
                found = self._open(prefix)
                if found is not None and not found.dataset:
                    raise DamageError(
                        f"{prefix} has lost the record that names its dataset",
                        "it opens by the dataset's name: --dataset NAME",
                    )
            except (DamageError, UsageError) as error:
                if report is None:
                    raise
                report(prefix, error)
                continue
            if found is not None:
                opened.append(found)
        return sorted(opened, key=lambda one: one.dataset)

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
        name = key_set_name(f"{prefix}keys/", 0)
        key_set = KeySet(
            name,
            self._descriptor.store,
            self._descriptor.kdf,
            fresh.dataset_id,
            fresh.wrap(self._keks) if self.encrypted else [],
        )
        # If another writer made it at the same time, its keys count.
        made, content = put_twice(self.store, name, encode_key_set(key_set), decode_key_set)
        opened = self._open(prefix, made=made)
        assert opened is not None, "it has a key set"
        if opened.log.next_sequence == 0:
            first = {
                "type": "keys",
                "key_set": sha256_hex(content),
                "dataset": dataset,
                "tier": tier,
                "deployment": deployment,
                "created_at": to_iso(now()),
            }
            with suppress(_Begun):
                opened.log.append(first, recheck=opened.already_begun)
        return opened

    def _open(self, prefix: str, *, made: KeySet | None = None) -> Repository | None:
        """A repository; None where there is none. ``made`` is the key set of one just begun."""
        found = [made] if made is not None else key_sets(self.store, f"{prefix}keys/")
        if not found:
            if not self.store.list_names(f"{prefix}log/"):
                return None
            if self.encrypted:
                raise DamageError(
                    f"{self.store.url}/{prefix} has lost its key sets",
                    f"copy {prefix}keys/ back into it",
                )
        if self.encrypted:
            keys = self._unwrap(found, prefix)
        else:
            keys = DatasetKeys.generate(encrypted=False)
        repository = Repository(self.store, prefix, keys)
        repository.log.open()
        if repository.log.next_sequence == 0:
            return repository if made is not None else None
        if repository.dataset and self.prefix(repository.dataset) != prefix:
            raise DamageError(
                f"{self.store.url}/{prefix} holds {repository.dataset}, which belongs elsewhere",
                f"move it back to {self.prefix(repository.dataset)}",
            )
        unknown = self._descriptor.write_features | (found[0].write_features if found else 0)
        if unknown:
            repository.log.refuse(
                f"only a later version may write to {repository.dataset} in {self.store.url}"
            )
        return repository

    def _unwrap(self, found: Sequence[KeySet], prefix: str) -> DatasetKeys:
        """The keys of a dataset; from the twins, where what is in their place holds less."""

        def opened(some: Sequence[KeySet]) -> DatasetKeys:
            return from_newest(
                some,
                lambda key_set: DatasetKeys.unwrap(self._keks, key_set.subject, key_set.wraps),
                f"the repository {self.store.url}/{prefix}",
            )

        failure: BackupError | None = None
        keys: DatasetKeys | None = None
        try:
            keys = opened(found)
            if keys.content is not None:
                return keys
        except (WrongKey, DamageError) as error:
            failure = error
        with suppress(WrongKey, DamageError):
            twins = key_sets(self.store, f"{prefix}keys/", twin_first=True)
            if twins != found:
                return opened(twins)
        if keys is None:
            assert failure is not None
            raise failure
        return keys


class _Begun(Exception):
    """Another writer wrote the first record."""


class Repository:
    """All of one dataset in one tier.

    Attributes:
        parity: Share of a pack's blocks that may rot and heal by themselves; each pack that is
            written gets a sidecar for it. 0 for none.
        solid: Whether small files are compressed together with their neighbours. If not, what is
            stored of one says nothing of another: each has a frame of its own.
    """

    def __init__(self, store: Store, prefix: str, keys: DatasetKeys) -> None:
        self.parity = 0.0
        self.solid = True
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

    def forget(self) -> None:
        """Let go of what was read of packs, once some of them are other than they were."""
        self._sealers.clear()
        self.__dict__.pop("segments", None)

    def check_documents(self) -> list[tuple[str, str]]:
        """What is wrong with the documents that this repository needs: (name, what)."""
        found = list(check_documents(self.store, self.prefix))
        folder = f"{self.prefix}keys/"
        digests: set[str] = set()
        for name in self.store.list_names(folder):
            with suppress(ObjectMissing):  # a folder that is not ours
                digests.add(sha256_hex(self.store.get(folder + name)))
        if self.state.key_set and self.state.key_set not in digests:
            found.append((folder, "lacks the key set that the log names"))
        return found

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

    @cached_property
    def segments(self) -> Segments:
        """The segments of its manifests."""
        from backup_pipeline.engine.segments import Segments

        return Segments(self)

    def segment(self, segment: Segment) -> pa.Table:
        """The rows of one segment, checked against its name; chunks where they lie now."""
        return self.segments.read(segment)

    def pack_index(self, name: bytes) -> PackIndex:
        """A pack's index, read from its end.

        Raises:
            DamageError: The pack is missing, or is not what was stored.
        """
        path = self.pack_path(name)
        try:
            size = self.store.stat(path).size_bytes
            start = self.store.get(path, 0, FRAMES_START)
            end = self.store.get(path, max(0, size - TRAILER_BYTES), min(size, TRAILER_BYTES))
            offset, length = index_range(self.keys, start, end, size, path)
            sealed = self.store.get(path, offset, length)
        except ObjectMissing:
            raise DamageError(f"{path} is missing") from None
        return decode_index(self.keys, start, sealed, offset, path)

    def put_segment(self, rows: pa.Table, *, origin: str | None = None) -> Segment:
        """Store rows as a new segment; durable on return."""
        return self.segments.write(rows, origin)

    def pack_path(self, name: bytes) -> str:
        """Where a pack is stored."""
        return f"{self.prefix}{pack_name_text(name)}"

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
            run = run_of(start, path)
            found = content_sealer(self.keys, self.run_key(run), bytes(start))
            if len(self._sealers) > 4096:
                self._sealers.clear()
            self._sealers[name] = found
        return found
