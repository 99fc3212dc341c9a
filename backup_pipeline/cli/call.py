"""One call of the command line: what it was asked for, what it reads, and how it answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from backup_pipeline.cli.progress import ProgressDisplay
from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.runner.opening import (
    PASSPHRASE_VARIABLE,
    PLAN_VARIABLE,
    plan_file,
    secrets_of,
    store_options,
)

if TYPE_CHECKING:
    from backup_pipeline.plan import Plan
    from backup_pipeline.runner import Reader, Runner
    from backup_pipeline.runner.cuts import SetReader

__all__ = ["PASSPHRASE_VARIABLE", "PLAN_VARIABLE", "Call", "Invocation", "explain"]


def explain(error: BackupError) -> dict[str, Any]:
    """An error as it stands in a JSON answer."""
    from backup_pipeline.process import write_error

    written = write_error(error)
    return {"type": written.pop("classes")[0], **written}


@dataclass(frozen=True, slots=True)
class Invocation:
    """How the command line was called.

    Attributes:
        own_process: Whether this process is the command's alone, not a program that calls ``main``.
    """

    own_process: bool


@dataclass(slots=True)
class Call:
    """The options that verbs share, and what follows from them.

    Attributes:
        json: Whether to answer with one JSON document.
        plan_file: The plan's file, where it was named.
        store: A store's URL instead of a plan.
        dataset: The dataset's key, as argument or option.
        key_file: A file that holds the store's key.
        encryption: ``none`` to read a store that was made without encryption.
        endpoint: S3 endpoint of the store.
        region: S3 region of the store.
    """

    json: bool = False
    plan_file: str | None = None
    store: str | None = None
    dataset: str | None = None
    key_file: str | None = None
    encryption: str | None = None
    endpoint: str | None = None
    region: str | None = None
    progress: ProgressDisplay = field(init=False)
    _reader: Reader | None = None

    def __post_init__(self) -> None:
        """Lines of progress go to standard output, which a scheduled call may drop, unless that
        is the answer's."""
        self.progress = ProgressDisplay(sys.stderr if self.json else sys.stdout)

    # -- what is read

    def plan(self, *, to_run: bool = False) -> Plan:
        """The plan: named, or in BACKUP_PLAN, or ./backup.yaml.

        Args:
            to_run: Whether its first store will be opened.

        Raises:
            UsageError: There is none, or a store was named instead.
            PlanError: It has mistakes.
        """
        from backup_pipeline.plan import load_plan

        if not to_run:
            return load_plan(self.plan_path())
        from backup_pipeline.runner.headstart import begin_deriving

        return load_plan(self.plan_path(), meanwhile=begin_deriving)

    def plan_path(self) -> str:
        """The plan's file; raises as ``plan`` does."""
        if self.store is not None:
            raise UsageError(
                "this verb needs a plan; a store alone can be read, not written",
                "give --plan FILE instead of --store",
            )
        return plan_file(self.plan_file)

    def runner(self) -> Runner:
        """A runner of the plan, for verbs that write too."""
        plan = self.plan(to_run=True)
        from backup_pipeline.runner import Runner

        runner = Runner(plan, report=self.progress)
        self._reader = runner
        return runner

    def reader(self) -> SetReader:
        """A reader of the plan's tiers, or of the one store that was named."""
        if self.store is None:
            self._refuse_store_options()
            return self.runner()
        if self.plan_file is not None:
            raise UsageError("a plan and a store are both given", "give --plan or --store")
        from backup_pipeline.runner import Runner

        self._reader = Runner.for_store(
            store_options(self.store, self.endpoint, self.region),
            self.dataset,
            secrets_of(self.key_file, self.encryption),
            report=self.progress,
        )
        return self._reader

    def _refuse_store_options(self) -> None:
        given = {
            "--key-file": self.key_file,
            "--encryption": self.encryption,
            "--endpoint": self.endpoint,
            "--region": self.region,
        }
        for name, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{name} belongs to --store; a plan names its own stores and keys",
                    "leave it out, or give --store URL",
                )

    def wanted(self, reader: Reader) -> str:
        """The one dataset that the verb is about: as named, or the only one there is.

        Raises:
            UsageError: None is named and there are several.
        """
        if self.dataset is not None:
            return self.dataset
        known = reader.datasets()
        if len(known) == 1:
            return known[0]
        how = "--dataset KEY" if self.store else "DATASET"
        raise UsageError(f"which dataset? give {how}", f"there are {', '.join(known) or 'none'}")

    # -- how it answers

    def say(self, text: str) -> None:
        """One line for people; nothing under --json."""
        if not self.json:
            self.progress.clear()
            print(text)

    def notice(self, text: str, word: str = "note") -> None:
        """One line beside the answer, on standard error."""
        self.progress.clear()
        print(f"{word}: {text}", file=sys.stderr)

    def answer(self, document: Any, show: Callable[[], None]) -> None:
        """Give the verb's answer: as JSON where it was asked for, else as ``show`` prints it."""
        self.progress.close()
        if self._reader is not None:
            for text in self._reader.notices:
                self.notice(text)
        if self.json:
            print(json.dumps(document, indent=2, default=_plain))
        else:
            show()

    def answer_each(self, items: Iterable[Any], show: Callable[[Any], str]) -> int:
        """Give a long list as it comes: a JSON array, or one line each.

        Returns:
            How many there were.
        """
        count = 0
        for count, item in enumerate(items, 1):
            if self.json:
                head = "[\n  " if count == 1 else ",\n  "
                sys.stdout.write(head + json.dumps(item.to_json(), default=_plain))
            else:
                sys.stdout.write(show(item) + "\n")
        self.progress.close()
        if self.json:
            sys.stdout.write("\n]\n" if count else "[]\n")
        if self._reader is not None:
            for text in self._reader.notices:
                self.notice(text)
        return count

    def close(self) -> None:
        """Let go of stores and of the progress display."""
        self.progress.close()
        if self._reader is not None:
            self._reader.close()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if hasattr(value, "to_json"):
        return value.to_json()
    raise TypeError(f"{type(value).__name__} has no JSON form")
