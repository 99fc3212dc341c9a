"""A repository's log: numbered records, created once, each naming its predecessor, kept twice.

    log/<epoch>/<sequence>        twin/<epoch>/<sequence>        epoch = sequence // 128

The first record of every epoch but the first is a checkpoint that holds the state after all
records before it, so opening reads one epoch however long the log is. An append is a create-only
write of the next number; whoever loses the race reads what came in and tries again, so no lock,
lease or clock is needed. Order of work: the record, then its twin; a twin that a crash left out
is written by the next writer, and its absence at any other place is damage.

Every record is authenticated by itself, so one that is lost with its twin hides what it said and
no more: the log still opens, says so in ``lost``, and refuses to be appended to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backup_pipeline.engine.crypto import sha256_hex
from backup_pipeline.engine.errors import (
    BackupError,
    Conflict,
    DamageError,
    ObjectExists,
    ObjectMissing,
    UsageError,
)
from backup_pipeline.engine.format.header import canonical_json, decode_json
from backup_pipeline.engine.format.record import Record, decode_record, encode_record
from backup_pipeline.engine.keys import DatasetKeys
from backup_pipeline.engine.store import Store

__all__ = ["EPOCH_RECORDS", "Log"]

EPOCH_RECORDS = 128
MOST_ATTEMPTS = 200
READERS = 8


class Log:
    """The records of one repository.

    Args:
        store: Where they are.
        prefix: The repository's prefix, ending in ``/``.
        keys: The dataset's keys.
        on_record: Called with every record, in order, as it is read or appended.
        checkpoint: Gives the body of a checkpoint of the present state.

    Attributes:
        lost: What is known of records that are lost with their twins, by the first's number.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        keys: DatasetKeys,
        *,
        on_record: Callable[[Record], None],
        checkpoint: Callable[[], dict[str, Any]],
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._keys = keys
        self._on_record = on_record
        self._checkpoint = checkpoint
        self._next = 0
        self._last_digest: str | None = ""  # None behind a lost record
        self._ours: set[int] = set()
        self._refusal: str | None = None
        self.lost: dict[int, str] = {}

    @property
    def next_sequence(self) -> int:
        """The number that the next record will have, as far as we have read."""
        return self._next

    def name(self, sequence: int, *, twin: bool = False) -> str:
        """Where a record, or its twin, is stored."""
        folder = "twin" if twin else "log"
        return f"{self._prefix}{folder}/{sequence // EPOCH_RECORDS:06d}/{sequence:08d}"

    def open(self) -> None:
        """Read the newest epoch; older ones too, as far back as the nearest good checkpoint.

        Raises:
            UsageError: A later version wrote one of the records.
            DamageError: Records contradict each other.
        """
        epochs = self._numbers("log/", 6) | self._numbers("twin/", 6)
        if not epochs:
            return
        found: dict[int, Record | DamageError] = {}
        for epoch in sorted(epochs, reverse=True):
            first = epoch * EPOCH_RECORDS
            folder = f"{epoch:06d}/"
            listed = self._numbers(f"log/{folder}", 8) | self._numbers(f"twin/{folder}", 8)
            listed &= set(range(first, first + EPOCH_RECORDS))
            found.update(self._load_all(sorted(listed | {first})))
            if isinstance(found[first], Record):
                break
        self._prefer_followed(found)
        self._next = min(found)
        for number, record in sorted(found.items()):
            if number > self._next:
                self._lose(self._next, number, "missing")
            if not isinstance(record, Record):
                self._lose(number, number + 1, record.message)
                continue
            if number == min(found):
                self._last_digest = record.previous
            self._take(record)

    def _load_all(self, numbers: list[int]) -> dict[int, Record | DamageError]:
        def load(number: int) -> Record | DamageError:
            try:
                return self._load(number)
            except DamageError as error:
                return error

        if len(numbers) <= 4:
            return {number: load(number) for number in numbers}
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(numbers, pool.map(load, numbers), strict=True))

    def _prefer_followed(self, found: dict[int, Record | DamageError]) -> None:
        """Where a record and its twin differ, take the one that its neighbours speak for."""
        for number in sorted(found, reverse=True):
            record, before = found[number], found.get(number - 1)
            if not isinstance(record, Record) or not isinstance(before, Record):
                continue
            if record.previous != before.digest:
                copies, _ = self._copies(number - 1)
                followed = [copy for copy in copies.values() if copy.digest == record.previous]
                if followed:
                    found[number - 1] = followed[0]
                elif number == max(found):  # no record names this one, which may be a stranger
                    copies, _ = self._copies(number)
                    following = [copy for copy in copies.values() if copy.previous == before.digest]
                    found[number] = following[0] if following else record

    def _lose(self, first: int, end: int, what: str) -> None:
        which = f"record {first}" if end == first + 1 else f"records {first} to {end - 1}"
        self.lost[first] = f"log {which}, with twin: {what}"
        self._next, self._last_digest = end, None

    def refuse(self, why: str) -> None:
        """Let nothing more be appended."""
        self._refusal = why

    def refresh(self) -> bool:
        """Read what others appended since; whether there was anything."""
        found = False
        while (record := self._peek(self._next)) is not None:
            self._take(record)
            found = True
        return found

    def read(self, sequence: int) -> Record:
        """One record, by its number."""
        return self._load(sequence)

    def append(self, body: Mapping[str, Any], recheck: Callable[[], None] | None = None) -> Record:
        """Append a record; it is durable, twice, on return.

        Args:
            body: What it says.
            recheck: Called after others' records came in first, before each new attempt; raises
                if this one may no longer be appended.

        Raises:
            Conflict: Others kept winning, or ``recheck`` refused.
            DamageError: Records are lost, and with them what this one might contradict.
            UsageError: Only a later version may write here.
        """
        if self._refusal is not None:
            raise UsageError(self._refusal, "upgrade backup-pipeline")
        if self.lost:
            raise DamageError(
                f"the log is damaged and is not written to: {'; '.join(self.lost.values())}",
                "what is left can be restored; put the records back from a copy of this store, or"
                " begin this tier anew in an empty place",
            )
        self._mend_last_twin()
        for _ in range(MOST_ATTEMPTS):
            boundary = self._next > 0 and self._next % EPOCH_RECORDS == 0
            content = self._checkpoint() if boundary else body
            record = self._create(content)
            if record is None:
                self.refresh()
                self._mend_last_twin()
                if recheck is not None:
                    recheck()
            elif not boundary:
                return record
        raise Conflict(
            f"{MOST_ATTEMPTS} other writers came first, one after another",
            "run fewer writers on this dataset and tier at the same time",
        )

    def verify(self, report: Callable[[str, str], None]) -> int:
        """Read every record and twin from the first on; how many records there are.

        Args:
            report: Called with the name and what is wrong for each that is damaged.
        """
        before: set[str] = {""}  # digests of the copies of the record before; empty if it is lost
        differing: dict[str, Record] = {}  # the copies of the record before, where they differ
        for sequence in range(self._next):
            copies, problems = self._copies(sequence)
            records = list(copies.values())
            followed = {record.previous for record in records}
            for name, what in [*self._strangers(differing, followed), *problems]:
                report(name, what)
            odd = [name for name, record in copies.items() if record.previous not in before]
            if before and len(odd) == len(copies) > 0:
                report(self.name(sequence), "does not follow the record before it")
            differing = copies if len({record.digest for record in records}) > 1 else {}
            if differing and sequence + 1 == self._next:  # none follows it: it must follow
                followed = {r.digest for r in records if not before or r.previous in before}
                for name, what in self._strangers(differing, followed):
                    report(name, what)
            before = {record.digest for record in records}
        return self._next

    @staticmethod
    def _strangers(copies: Mapping[str, Record], followed: set[str]) -> list[tuple[str, str]]:
        """Which of two copies that differ is not what it should be; the first, if none tells."""
        strange = [name for name, record in copies.items() if record.digest not in followed]
        known = len(strange) == 1
        return [(name, "differs from its twin") for name in (strange if known else [*copies][:1])]

    def verify_one(self, sequence: int) -> list[tuple[str, str]]:
        """What is wrong with one record and its twin: (name, what)."""
        copies, problems = self._copies(sequence)
        if len({record.digest for record in copies.values()}) > 1:
            problems.append((self.name(sequence), "differs from its twin"))
        return problems

    def _copies(self, sequence: int) -> tuple[dict[str, Record], list[tuple[str, str]]]:
        """The readable copies of a record by name, and what is wrong with the others."""
        copies: dict[str, Record] = {}
        problems: list[tuple[str, str]] = []
        for twin in (False, True):
            name = self.name(sequence, twin=twin)
            try:
                copies[name] = self._read(sequence, twin=twin)
            except ObjectMissing:
                problems.append((name, "missing"))
            except (DamageError, UsageError) as error:
                problems.append((name, error.message))
        return copies, problems

    def _numbers(self, folder: str, digits: int) -> set[int]:
        names = self._store.list_names(f"{self._prefix}{folder}")
        return {
            int(name) for name in names if len(name) == digits and name.isascii() and name.isdigit()
        }

    def _read(self, sequence: int, *, twin: bool) -> Record:
        name = self.name(sequence, twin=twin)
        return decode_record(self._keys, self._store.get(name), sequence, name)

    def _load(self, sequence: int) -> Record:
        """A record from either copy.

        Raises:
            UsageError: A later version wrote it.
            DamageError: Neither copy is good.
        """
        failures: list[BackupError] = []
        for twin in (False, True):
            try:
                return self._read(sequence, twin=twin)
            except (ObjectMissing, DamageError, UsageError) as error:
                failures.append(error)
        for failure in failures:
            if isinstance(failure, UsageError):
                raise failure
        worst = next((one for one in failures if isinstance(one, DamageError)), None)
        raise DamageError(
            worst.message if worst else f"{self.name(sequence)} and its twin are missing",
            "copy the repository back from another tier",
        )

    def _peek(self, sequence: int) -> Record | None:
        """The record after our last, if there is one; also a checkpoint that opens an epoch."""
        try:
            return self._read(sequence, twin=False)
        except ObjectMissing:
            return None
        except (DamageError, UsageError):
            return self._load(sequence)

    def _take(self, record: Record) -> None:
        if self._last_digest is not None and record.previous != self._last_digest:
            raise DamageError(
                f"log record {record.sequence} does not follow the record before it",
                "the log was tampered with; compare it with another tier's",
            )
        opens_epoch = record.sequence > 0 and record.sequence % EPOCH_RECORDS == 0
        if opens_epoch != (record.type == "checkpoint"):
            raise DamageError(f"log record {record.sequence} is of type {record.type} out of place")
        self._on_record(record)
        self._next = record.sequence + 1
        self._last_digest = record.digest

    def _create(self, body: Mapping[str, Any]) -> Record | None:
        """Write the next record; None if its number was taken meanwhile."""
        sequence, previous = self._next, self._last_digest
        assert previous is not None
        content = encode_record(self._keys, sequence, previous, body)
        try:
            self._store.put(self.name(sequence), content)
        except ObjectExists:
            return None
        self._put_twin(sequence, content)
        said = decode_json(canonical_json(body), self.name(sequence))  # as others will read it
        record = Record(sequence, previous, said, sha256_hex(content))
        self._ours.add(sequence)
        self._take(record)
        return record

    def _put_twin(self, sequence: int, content: bytes) -> None:
        try:
            self._store.put(self.name(sequence, twin=True), content)
        except ObjectExists:
            raise DamageError(
                f"the twin of log record {sequence} holds other bytes than the record",
                "run `backup-pipeline verify` and compare with another tier",
            ) from None

    def _mend_last_twin(self) -> None:
        """Write the twin that a writer who crashed between the two left out."""
        last = self._next - 1
        if last < 0 or last in self._ours:
            return
        if not self._store.exists(self.name(last, twin=True)):
            content = bytes(self._store.get(self.name(last)))
            decode_record(self._keys, content, last, self.name(last))
            self._put_twin(last, content)
        self._ours.add(last)
