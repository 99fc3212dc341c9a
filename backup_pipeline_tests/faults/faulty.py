"""A store that lies or fails at one of its calls, counted over all stores of an operation.

``backup_pipeline.engine.store.wrappers`` has the plain failures; here are those that break the
contract of a store as well, which no store does and every broken disk, cache or server may.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from backup_pipeline.engine.errors import StoreUnavailable
from backup_pipeline.engine.store.base import Content, Store, StoredObject, pieces
from backup_pipeline.engine.store.wrappers import WrappedStore

__all__ = ["FAULTS", "Fault", "Script", "SpoiltStore"]

WRITES = frozenset({"put", "heal", "delete"})
READS = frozenset({"get", "stat", "list", "now"})
CONTENTS = frozenset({"put", "heal"})
HELD_BACK_S = 0.05


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to go wrong.

    Attributes:
        name: For the test's name.
        verbs: Which calls it can happen to.
        times: How many calls in a row it happens to; 0 for all from there on.
        lies_of: What is not as it is said to be: "stored" bytes, "read" bytes, a "listing", or
            nothing ("").
        harmless: Whether the operation has to succeed in spite of it.
    """

    name: str
    verbs: frozenset[str]
    times: int = 1
    lies_of: str = ""
    harmless: bool = False


FAULTS = {
    one.name: one
    for one in (
        Fault("refused", WRITES | READS),
        Fault("throttled", WRITES | READS, times=3),
        Fault("lost", WRITES),
        Fault("dead", WRITES | READS, times=0),
        Fault("dead-after", WRITES, times=0),
        Fault("slow", WRITES | READS, harmless=True),
        Fault("truncated", CONTENTS, lies_of="stored"),
        Fault("flipped", CONTENTS, lies_of="stored"),
        Fault("unwritten", CONTENTS, lies_of="stored"),
        Fault("short", frozenset({"get"}), lies_of="read"),
        Fault("changed", frozenset({"get"}), lies_of="read"),
        Fault("stale", frozenset({"list"}), lies_of="listing"),
        Fault("eventual", frozenset({"list"}), times=0, lies_of="listing"),
        Fault("forgetful", frozenset({"list"}), lies_of="listing"),
        Fault("phantom", frozenset({"list"}), lies_of="listing"),
        Fault("shrunk", frozenset({"list", "stat"}), lies_of="listing"),
    )
}
"""By name. *stale*: one listing shows only what was there before the last operation; *eventual*:
all of them do; *forgetful* leaves one name out, *phantom* adds one, *shrunk* tells half the size.
*slow* holds a call back until others come in; *lost* is the answer to a call that was carried out.
"""


@dataclass
class Script:
    """Counts calls and says which of them go wrong.

    Attributes:
        fault: How.
        at: The first call that does, counted from 1 among those it can happen to; 0 for none.
        calls: Those calls so far: verb and name.
        spoilt: The names of the calls that went wrong.
    """

    fault: Fault
    at: int = 0
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    spoilt: list[str] = field(default_factory=list[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _another: threading.Event = field(default_factory=threading.Event)

    def meets(self, verb: str, name: str) -> bool:
        """Count a call; whether it goes wrong."""
        if verb not in self.fault.verbs:
            return False
        with self._lock:
            self.calls.append((verb, name))
            number, times = len(self.calls), self.fault.times
            due = self.at and number >= self.at and (not times or number < self.at + times)
            if due:
                self.spoilt.append(name)
            elif self.at and number > self.at:
                self._another.set()
        return bool(due)

    def hold_back(self) -> None:
        """Wait until another call came in, if one comes."""
        self._another.wait(HELD_BACK_S)


class SpoiltStore(WrappedStore):
    """Goes wrong as its script says.

    Args:
        inner: The store that does the work.
        script: May be shared with other stores.
        old_names: What a listing shows that is out of date.
    """

    def __init__(self, inner: Store, script: Script, old_names: frozenset[str]) -> None:
        super().__init__(inner)
        self._script = script
        self._old_names = old_names

    def put(self, name: str, content: Content) -> None:
        self._write("put", name, content, self.inner.put)

    def heal(self, name: str, content: Content) -> None:
        self._write("heal", name, content, self.inner.heal)

    def delete(self, name: str) -> None:
        spoilt = self._begins("delete", name)
        self.inner.delete(name)
        if spoilt:
            raise self._failure("delete", name)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        spoilt = self._begins("get", name)
        found = self.inner.get(name, offset, length)
        if not spoilt:
            return found
        if self._script.fault.name == "short":
            return found[: len(found) // 2]
        return _changed(bytes(found))

    def get_into(self, name: str, offset: int, buffer: bytearray | memoryview) -> None:
        view = memoryview(buffer).cast("B")
        found = self.get(name, offset, len(view))
        view[: len(found)] = found

    def stat(self, name: str) -> StoredObject:
        spoilt = self._begins("stat", name)
        found = self.inner.stat(name)
        return _shrunk(found) if spoilt else found

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[StoredObject]:
        spoilt = self._begins("list", prefix)
        found = list(self.inner.list(prefix, after=after))
        return iter(self._misreported(found) if spoilt else found)

    def list_names(self, prefix: str) -> list[str]:
        spoilt = self._begins("list", prefix)
        found = self.inner.list_names(prefix)
        if not spoilt:
            return found
        match self._script.fault.name:
            case "stale" | "eventual":
                old = {name for name in self._old_names if name.startswith(prefix)}
                return sorted({name[len(prefix) :].partition("/")[0] for name in old})
            case "forgetful":
                return found[:-1]
            case "phantom" if found:
                return sorted({*found, _next_name(found[-1])})
            case _:
                return found

    def now(self) -> datetime:
        self._begins("now", "")
        return self.inner.now()

    def _begins(self, verb: str, name: str) -> bool:
        """Count a call, fail before it if so told; whether it goes wrong after that."""
        if not self._script.meets(verb, name):
            return False
        match self._script.fault.name:
            case "refused" | "throttled" | "dead":
                raise self._failure(verb, name)
            case "dead-after" if len(self._script.spoilt) > 1:
                raise self._failure(verb, name)
            case "slow":
                self._script.hold_back()
                return False
            case _:
                return True

    def _failure(self, verb: str, name: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url}: {verb} of {name} failed as it was told to", "this is a test"
        )

    def _write(
        self, verb: str, name: str, content: Content, go: Callable[[str, Content], None]
    ) -> None:
        spoilt = self._begins(verb, name)
        whole = b"".join(pieces(content))
        match self._script.fault.name if spoilt else "":
            case "truncated":
                go(name, whole[: len(whole) // 2])
            case "flipped":
                go(name, _changed(whole))
            case "unwritten":
                pass
            case "":
                go(name, whole)
            case _:
                go(name, whole)
                raise self._failure(verb, name)

    def _misreported(self, found: Sequence[StoredObject]) -> Sequence[StoredObject]:
        match self._script.fault.name:
            case "stale" | "eventual":
                return [one for one in found if one.name in self._old_names]
            case "forgetful":
                return found[:-1]
            case "phantom" if found:
                last = found[-1]
                return [*found, StoredObject(_next_name(last.name), 1000, last.modified_at)]
            case "shrunk":
                return [*map(_shrunk, found[:1]), *found[1:]]
            case _:
                return found


def _changed(content: bytes) -> bytes:
    """One bit of the middle byte turned over."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def _shrunk(found: StoredObject) -> StoredObject:
    return StoredObject(found.name, found.size_bytes // 2, found.modified_at)


def _next_name(name: str) -> str:
    """A name of the same shape that sorts behind it."""
    digits = len(name) - len(name.rstrip("0123456789abcdef"))
    last = name[len(name) - min(digits, 8) :]
    if not last:
        return f"{name}0"
    radix = 10 if last.isdigit() else 16
    return f"{name[: -len(last)]}{int(last, radix) + 1:0{len(last)}{'d' if radix == 10 else 'x'}}"
