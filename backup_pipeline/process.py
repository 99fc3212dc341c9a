"""Runs one verb in a process of its own: one spinning Python thread beside the engine would cost
most of its speed.

The parent writes one request, a line of JSON, to the child's standard input and keeps it open; the
child answers with lines of JSON on standard output: any number of ``progress`` events, then one
``result`` or ``error``. When the child's standard input ends, its parent is gone and it ends too;
whatever it was writing, the store's earlier snapshots stay whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from backup_pipeline.engine import errors
from backup_pipeline.engine.errors import BackupError, DayUnavailable, PlanError, Problem
from backup_pipeline.engine.startup import end_process, start_engine, start_process

if TYPE_CHECKING:
    from backup_pipeline.engine.progress import Progress
    from backup_pipeline.plan import Plan

__all__ = [
    "VERBS",
    "EngineCrashed",
    "main",
    "rebuild_error",
    "run_here",
    "run_in_process",
    "write_error",
]

Event = dict[str, Any]
Writes = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By asset and partition, what ``asset_writes`` says."""

VERBS = (
    "backfill",
    "backup",
    "backup_set",
    "clear",
    "complete",
    "copy",
    "cuts",
    "drill",
    "expire",
    "fingerprint",
    "missing",
    "pin",
    "prune",
    "repair",
    "restore",
    "restore_in_place",
    "restore_set",
    "set_status",
    "snapshots",
    "status",
    "verify",
    "why",
)
"""What can be asked: methods of the runner, with their arguments by name."""

CALLS_FUNCTIONS = ("complete", "drill")
"""The verbs that call functions of the user's, which are to be found as in the parent."""

ENDING_S = 10
"""How long a child that was told to end may take before it is killed."""

_KEPT_LINES = 40


class EngineCrashed(BackupError):
    """The process ended without an answer, or failed in a way that is no user's mistake."""


# -- the parent's half


def run_in_process(
    plan: Plan,
    verb: str,
    arguments: Mapping[str, Any],
    *,
    now: datetime | None = None,
    on_event: Callable[[Event], None] | None = None,
    environ: Mapping[str, str] | None = None,
    writes: Writes | None = None,
) -> Any:
    """Run one verb of the runner in a child process and wait for its answer.

    Args:
        plan: The plan; its references are looked up in the child.
        verb: One of ``VERBS``.
        arguments: The verb's arguments by name; days and times as such or in ISO form.
        now: The time at which the child's clock begins; default: the real one.
        on_event: Is told each progress event: the fields of ``Progress``, and ``line``.
        environ: The child's environment; default: this process's.
        writes: How assets were last written, by key and partition; None: the runner finds out.

    Returns:
        The answer's ``to_json()``; a list of them where the verb answers with a list.

    Raises:
        BackupError: As the verb raised it in the child, of the same class.
        EngineCrashed: The child died or met an unexpected error.
    """
    request = _request(plan, verb, arguments, now, writes)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "backup_pipeline.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(os.environ if environ is None else environ),
    )
    assert child.stdin and child.stdout and child.stderr
    last_words: deque[str] = deque(maxlen=_KEPT_LINES)
    listener = threading.Thread(
        target=_pass_through, args=(child.stderr, last_words), name="engine stderr", daemon=True
    )
    listener.start()
    try:
        answer = _converse(child.stdin, child.stdout, request, on_event)
        if answer is not None:
            _wait(child)
    finally:
        # Also on the way out of an interruption: no engine works on behind its run's back.
        _end(child)
        listener.join(ENDING_S)
        for pipe in (child.stdin, child.stdout, child.stderr):
            _close(pipe)
    if answer is None:
        raise _crash(verb, child.returncode, last_words)
    if answer["event"] == "error":
        raise rebuild_error(answer)
    return answer["result"]


def run_here(
    plan: Plan,
    verb: str,
    arguments: Mapping[str, Any],
    *,
    now: datetime | None = None,
    on_event: Callable[[Event], None] | None = None,
    environ: Mapping[str, str] | None = None,
    writes: Writes | None = None,
) -> Any:
    """Run one verb in this process; all else as ``run_in_process``."""
    request = _request(plan, verb, arguments, now, writes)
    return _run(request, on_event or _ignore, os.environ if environ is None else environ)


def _ignore(_: Event) -> None:
    return


def _request(
    plan: Plan,
    verb: str,
    arguments: Mapping[str, Any],
    now: datetime | None,
    writes: Writes | None,
) -> dict[str, Any]:
    if verb not in VERBS:
        raise errors.UsageError(f"no verb {verb!r}", f"one of {', '.join(VERBS)}")
    return {
        "plan": plan.document,
        "modules": _module_folders(plan) if verb in CALLS_FUNCTIONS or _loads(plan) else [],
        "verb": verb,
        "arguments": {name: _plain(value) for name, value in arguments.items()},
        "now": _plain(now),
        "writes": writes,
    }


def _loads(plan: Plan) -> bool:
    """Whether sources call code of the user's."""
    sources = (spec.source for spec in plan.datasets.values())
    return any(one.kind == "asset" and "definitions" in one.options for one in sources)


def _module_folders(plan: Plan) -> list[str]:
    """Where functions that the plan names are looked for: beside its file, and where we look."""
    beside = [] if plan.file is None else [str(Path(plan.file).resolve().parent)]
    return [*beside, *(str(Path(folder).resolve()) for folder in sys.path)]


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The child's environment, in which it finds the same package as its parent."""
    home = str(Path(__file__).resolve().parent.parent)
    paths = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**environ, "PYTHONPATH": os.pathsep.join([*paths, home])}


def _converse(
    to_child: IO[bytes],
    from_child: IO[bytes],
    request: Mapping[str, Any],
    on_event: Callable[[Event], None] | None,
) -> Event | None:
    """Ask, listen, and return the last word; None where there was none."""
    try:
        to_child.write(json.dumps(request).encode() + b"\n")
        to_child.flush()
    except BrokenPipeError:
        return None
    for line in from_child:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") in ("result", "error"):
            return event
        if on_event is not None:
            on_event(event)
    return None


def _pass_through(pipe: IO[bytes], last_words: deque[str]) -> None:
    for line in pipe:
        text = line.decode("utf-8", "replace")
        last_words.append(text)
        sys.stderr.write(text)
        sys.stderr.flush()


def _wait(child: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        child.wait(ENDING_S)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    _wait(child)
    if child.poll() is None:
        child.kill()
        child.wait()


def _close(pipe: IO[bytes]) -> None:
    with suppress(OSError):
        pipe.close()


def _crash(verb: str, code: int, last_words: deque[str]) -> EngineCrashed:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    error = EngineCrashed(
        f"the engine's process {how} during {verb}, without an answer",
        "earlier snapshots are whole; run it again. Out of memory is the usual reason for signal 9",
    )
    if last_words:
        error.add_note("its last words:\n" + "".join(last_words))
    return error


# -- errors, on both sides


def write_error(error: BaseException) -> Event:
    """An error as plain values, from which ``rebuild_error`` makes it again."""
    if not isinstance(error, BackupError):
        return {
            "classes": [EngineCrashed.__name__],
            "exit_code": EngineCrashed.exit_code,
            "message": f"unexpected {type(error).__name__}: {error}",
            "hint": "this is a mistake in backup-pipeline: please report it, with the traceback",
            "traceback": "".join(traceback.format_exception(error)),
        }
    classes = [cls.__name__ for cls in type(error).__mro__ if issubclass(cls, BackupError)]
    written: Event = {
        "classes": classes,
        "exit_code": error.exit_code,
        "message": error.message if not isinstance(error, PlanError) else str(error),
        "hint": error.hint,
    }
    if isinstance(error, DayUnavailable):
        written["available"] = [day.isoformat() for day in error.available]
    if isinstance(error, PlanError):
        written["problems"] = [asdict(problem) for problem in error.problems]
    return written


def rebuild_error(written: Mapping[str, Any]) -> BackupError:
    """The error that ``write_error`` was given, or one of its nearest known class."""
    known = {name: getattr(errors, name) for name in errors.__all__}
    known[EngineCrashed.__name__] = EngineCrashed
    cls = next((known[name] for name in written["classes"] if name in known), BackupError)
    message, hint = written["message"], written["hint"]
    if issubclass(cls, PlanError):
        return cls([Problem(**problem) for problem in written["problems"]])
    if issubclass(cls, DayUnavailable):
        days = [date.fromisoformat(day) for day in written["available"]]
        return cls(message, hint, available=days)
    error: BackupError = cls(message, hint)
    if written.get("traceback"):
        error.add_note("in the engine's process:\n" + written["traceback"])
    return error


# -- the child's half


def main() -> int:
    """Read one request from standard input, run it, answer on standard output.

    Returns:
        0 where an answer was given, a result or an error.
    """
    # Whatever prints to standard output would break the conversation: it goes to standard error.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    start_process()
    request = json.loads(sys.stdin.buffer.readline())
    start_engine(pandas=request["verb"] in CALLS_FUNCTIONS)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()

    def tell(event: Event) -> None:
        answers.write(json.dumps(event).encode() + b"\n")

    try:
        tell({"event": "result", "result": _run(request, tell, os.environ)})
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        tell({"event": "error", **write_error(error)})
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    hooks = sys.modules.get("backup_pipeline.runner.hooks")
    if hooks is not None:
        hooks.thaw_all()
    os._exit(1)


def _run(
    request: Mapping[str, Any], tell: Callable[[Event], None], environ: Mapping[str, str]
) -> Any:
    from backup_pipeline.plan import load_plan
    from backup_pipeline.runner.headstart import begin_deriving

    def report(progress: Progress) -> None:
        tell({"event": "progress", "line": progress.line(), **progress.to_json()})

    def meanwhile(content: Mapping[str, Any], folder: Path) -> None:
        begin_deriving(content, folder, environ)

    sys.path.extend(folder for folder in request["modules"] if folder not in sys.path)
    plan = load_plan(request["plan"], environ=environ, meanwhile=meanwhile)
    clock = _clock(request["now"])
    from backup_pipeline.runner import Runner

    writes: Writes | None = request["writes"]
    known = None if writes is None else lambda key: writes.get(key, {})
    with Runner(plan, clock=clock, environ=environ, report=report, writes=known) as runner:
        return _answer(getattr(runner, request["verb"])(**_arguments(request["arguments"])))


def _clock(now: str | None) -> Callable[[], datetime]:
    """The real clock, or one that begins at ``now`` and goes on from there."""
    if now is None:
        return lambda: datetime.now(UTC)
    start, began_s = datetime.fromisoformat(now).astimezone(UTC), time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began_s)


def _plain(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def _arguments(written: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(written)
    for name in ("day", "since", "until"):
        if arguments.get(name) is not None:
            arguments[name] = date.fromisoformat(arguments[name])
    if arguments.get("at") is not None:
        arguments["at"] = datetime.fromisoformat(arguments["at"])
    return arguments


def _answer(value: Any) -> Any:
    if isinstance(value, list):
        return [_answer(item) for item in value]
    return value.to_json() if hasattr(value, "to_json") else value


if __name__ == "__main__":
    end_process(main())
