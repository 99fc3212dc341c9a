"""An S3 server that stops, dies and comes back, and a network that cuts, delays and loses.

Every run ends with success or one clear error, in a time that the store's named limits bound; what
was committed restores, and the next run is fine. The limits are made short here.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import statistics
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import BackupError, ObjectExists, ObjectMissing, StoreUnavailable
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.store import Store, again, open_store, s3, s3_settings
from backup_pipeline.engine.store.base import Content
from backup_pipeline.engine.store.wrappers import WrappedStore
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.engine.repositories import back_up, make_repository, open_repository
from backup_pipeline_tests.engine.store.lying_s3 import LyingS3
from backup_pipeline_tests.engine.trees import state_of
from backup_pipeline_tests.faults.proxy import Network, Request, network
from backup_pipeline_tests.faults.scene import Scene, edit, fast_folder, plant, small_pieces
from backup_pipeline_tests.faults.watchdog import watched
from backup_pipeline_tests.promises import Cases

pytestmark = [pytest.mark.services]
LIMIT_S = 60.0
RETRIES = 3


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short limits, and little content in many pieces."""
    monkeypatch.setattr(s3_settings, "CONNECT_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr(s3_settings, "RETRIES", RETRIES)
    monkeypatch.setattr(s3_settings, "RETRY_WINDOW", timedelta(seconds=4))
    monkeypatch.setattr(s3, "RETRY_WINDOW", timedelta(seconds=4))
    monkeypatch.setattr(s3, "QUICK_TIMEOUT", timedelta(seconds=2))
    monkeypatch.setattr(s3, "BULK_TIMEOUT", timedelta(seconds=2))
    with small_pieces():
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    with fast_folder() as found:
        yield found


class Bench:
    """A dataset that is backed up to a server through a network."""

    def __init__(self, folder: Path, server: S3Server, net: Network, seed: int) -> None:
        self.options = server.options(f"s3://backups/{secrets.token_hex(6)}")
        self.net = net
        self.seed = seed
        self.scene = Scene(folder, self.store(), self.store())
        plant(self.scene.source, seed)
        self.scene.note(back_up(make_repository(self.store()), self.scene.source))

    def store(self) -> Store:
        """The store behind the network, with new connections."""
        return open_store({**self.options, "endpoint": self.net.endpoint})

    def run(self, what: str, store: Store | None = None) -> Snapshot | BackupError:
        """Change something and back it up; what came of it, which is checked."""
        self.seed += 1
        edit(self.scene.source, self.seed)
        with watched(what, LIMIT_S):
            try:
                made = back_up(open_repository(store or self.store()), self.scene.source)
                return self.scene.note(made)
            except BackupError as error:
                assert len(error.message.splitlines()) == 1
                assert error.hint
                assert isinstance(error, StoreUnavailable), error
                return error

    def check(self) -> None:
        """With all faults gone: what was committed restores, and the next run is fine."""
        earlier = set(self.scene.states)
        repository = open_repository(self.store())
        for one in repository.snapshots():
            if one.id not in earlier:  # only the answer to its commit was lost
                self.scene.note(one)
        self.scene.check(self.store(), earlier, all_of_them=False)
        made = back_up(open_repository(self.store()), self.scene.source)
        self.scene.note(made, state_of(self.scene.source))
        repository = open_repository(self.store())
        found = repository.snapshot(made.id)
        assert self.scene.restores_right(repository, found, self.scene.states[made.id])
        self.scene.check_sound(self.store())


class At(WrappedStore):
    """Does something right before the n-th write."""

    def __init__(self, inner: Store, nth: int, act: Callable[[], None]) -> None:
        super().__init__(inner)
        self._left = nth
        self._act = act

    def put(self, name: str, content: Content) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()
        super().put(name, content)


def of_requests(*numbers: int, fate: str) -> Callable[[Request], str]:
    """The same fate for some requests."""
    return lambda request: fate if request.number in numbers else ""


@pytest.mark.faults
@pytest.mark.promise("errors")
@pytest.mark.parametrize("fate", ["slow-down", "cut", "lost", "broken"])
def test_a_request_that_fails_is_repeated(
    folder: Path, s3_server: S3Server, fate: str, cases: Cases
) -> None:
    chance = random.Random(f"{cases.seed} {fate}")
    with network(s3_server.endpoint) as net:
        bench = Bench(folder, s3_server, net, cases.seed)
        for _ in range(cases.scaled(12)):
            first = len(net.requests) + chance.randint(1, 40)
            net.decide = of_requests(first, first + 1, fate=fate)
            made = bench.run(f"{fate} at {first}")
            assert isinstance(made, Snapshot), made
            net.decide = lambda request: ""
            bench.check()
            cases.add()


@pytest.mark.faults
@pytest.mark.promise("errors")
@pytest.mark.parametrize("fate", ["slow-down", "cut", "lost"])
def test_requests_that_all_fail_are_given_up_soon(
    folder: Path, s3_server: S3Server, fate: str, cases: Cases
) -> None:
    chance = random.Random(f"{cases.seed} {fate}")
    with network(s3_server.endpoint) as net:
        bench = Bench(folder, s3_server, net, cases.seed)
        for _ in range(cases.scaled(6)):
            first = len(net.requests) + chance.randint(1, 20)
            net.decide = lambda request, first=first: fate if request.number >= first else ""
            failed = bench.run(f"{fate} from {first} on")
            assert isinstance(failed, StoreUnavailable)
            if fate == "slow-down":
                # The answer to a HEAD has no body, and so no code.
                assert "SlowDown" in failed.message or "status 503" in failed.message
            asked = [one.path for one in net.requests[first - 1 :]]
            assert max(map(asked.count, asked)) <= (RETRIES + 1) * again.ATTEMPTS
            net.decide = lambda request: ""
            bench.check()
            cases.add()


@pytest.mark.faults
@pytest.mark.promise("errors")
def test_connections_that_are_cut_in_the_middle_are_made_again(
    folder: Path, s3_server: S3Server, cases: Cases
) -> None:
    chance = random.Random(cases.seed)
    with network(s3_server.endpoint) as net:
        bench = Bench(folder, s3_server, net, cases.seed)
        for number in range(cases.scaled(16)):
            net.cuts = (1, 3, 1000)[number % 3]
            net.cut_after_bytes = net.passed_bytes + chance.randrange(400_000)
            made = bench.run(f"cut {net.cuts} times after {net.cut_after_bytes} bytes")
            if number % 3 < 2:
                assert isinstance(made, Snapshot), made
            net.cut_after_bytes = None
            bench.check()
            cases.add()


@pytest.mark.faults
@pytest.mark.promise("errors")
def test_a_slow_network_only_takes_longer(folder: Path, s3_server: S3Server, cases: Cases) -> None:
    with network(s3_server.endpoint) as net:
        bench = Bench(folder, s3_server, net, cases.seed)
        net.latency_s = 0.05
        assert isinstance(bench.run("latency"), Snapshot)
        bench.check()
        cases.add()


@pytest.mark.faults
@pytest.mark.promise("errors")
@pytest.mark.parametrize("way", ["stopped", "stopped for a moment", "killed", "restarted"])
def test_a_server_that_goes_away_in_mid_upload_is_said_and_the_next_run_is_fine(
    folder: Path, tmp_path: Path, way: str, cases: Cases
) -> None:
    chance = random.Random(f"{cases.seed} {way}")
    with S3Server(tmp_path / "server") as server, network(server.endpoint) as net:
        bench = Bench(folder, server, net, cases.seed)

        def act() -> None:
            assert server.pid is not None
            if way.startswith("stopped"):
                os.kill(server.pid, signal.SIGSTOP)
                if way == "stopped for a moment":
                    before = len(net.requests)
                    net.decide = lambda request: resume(request, before)
            else:
                os.kill(server.pid, signal.SIGKILL)
                if way == "restarted":
                    server.stop()
                    net.lead_to(server.start().endpoint)

        def resume(request: Request, before: int) -> str:
            """Go on when a request is made for the second time."""
            again = [one.path for one in net.requests[before:]]
            if server.pid is not None and again.count(request.path) > 1:
                os.kill(server.pid, signal.SIGCONT)
            return ""

        for _ in range(cases.scaled(4)):
            store = At(bench.store(), chance.randint(1, 7), act)
            made = bench.run(f"{way} server", store)
            if way in {"stopped", "killed"}:
                assert isinstance(made, StoreUnavailable)
                assert "did not answer" in made.message
            if way == "stopped for a moment":
                assert isinstance(made, Snapshot), made
            net.decide = lambda request: ""
            if server.pid is not None:
                os.kill(server.pid, signal.SIGCONT)
            else:
                server.stop()
                net.lead_to(server.start().endpoint)
            bench.check()
            cases.add()


@pytest.mark.promise("errors")
def test_pauses_between_attempts_grow_and_are_never_the_same(cases: Cases) -> None:
    firsts: list[float] = []
    with LyingS3() as liar, network(liar.endpoint) as net:
        net.decide = lambda request: "slow-down"
        for number in range(cases.scaled(6)):
            store = open_store({**liar.options(), "endpoint": net.endpoint})
            with pytest.raises(StoreUnavailable, match="SlowDown"):
                store.put(f"a/{number}", b"1")
            came = [one.at_s for one in net.requests if one.path.endswith(f"/a/{number}")]
            assert len(came) == RETRIES + 1, "it is asked so often and no more"
            pauses = [after - before for before, after in pairwise(came)]
            assert all(pause > 0.01 for pause in pauses)
            firsts.append(pauses[0])
            cases.add()
    assert statistics.pstdev(firsts) > 0.001


def absent(store: Store) -> None:
    with pytest.raises(ObjectMissing):
        store.get("a/b/2")


def past_the_end(store: Store) -> None:
    assert bytes(store.get("a/b/1", 3)) == b""


@pytest.mark.promise("errors")
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda store: list(store.list("a/")), id="list"),
        pytest.param(lambda store: store.list_names("a/"), id="names"),
        pytest.param(lambda store: store.get("a/b/1"), id="get"),
        pytest.param(absent, id="absent"),
        pytest.param(past_the_end, id="past-the-end"),
        pytest.param(lambda store: store.put("a/b/1", b"one"), id="put-again"),
    ],
)
def test_an_answer_that_breaks_off_is_asked_for_again(
    s3_server: S3Server, ask: Callable[[Store], Any], cases: Cases
) -> None:
    with network(s3_server.endpoint) as net:
        options = s3_server.options(f"s3://backups/{secrets.token_hex(6)}")
        store = open_store({**options, "endpoint": net.endpoint})
        store.put("a/b/1", b"one")
        expected = ask(store)
        for times in range(1, again.ATTEMPTS):
            first = len(net.requests) + 1
            net.decide = of_requests(*range(first, first + times), fate="broken")
            assert ask(store) == expected
            assert len(net.requests) >= first + times
            cases.add()
        first = len(net.requests) + 1
        net.decide = lambda request: "broken"
        with pytest.raises(StoreUnavailable, match="did not answer"):
            ask(store)
        assert len(net.requests) - first < again.ATTEMPTS * (RETRIES + 1)


@pytest.mark.promise("committed")
@pytest.mark.parametrize("size", [5, 1_000_000])
def test_a_write_whose_answers_are_lost_is_told_from_another_writers(
    s3_server: S3Server, size: int, cases: Cases
) -> None:
    with network(s3_server.endpoint) as net:
        options = s3_server.options(f"s3://backups/{secrets.token_hex(6)}")
        store = open_store({**options, "endpoint": net.endpoint})
        for lost in range(1, 4):
            first = len(net.requests) + 1
            net.decide = of_requests(*range(first, first + lost), fate="lost")
            store.put(f"a/{lost}", bytes(size))
            first = len(net.requests) + 1
            net.decide = of_requests(*range(first, first + lost), fate="lost")
            with pytest.raises(ObjectExists):
                store.put(f"a/{lost}", bytes(size - 1) + b"1")
            net.decide = lambda request: ""
            assert bytes(store.get(f"a/{lost}")) == bytes(size)
            cases.add(2)


@pytest.mark.promise("errors")
def test_a_server_that_is_silent_is_not_written_to_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(s3, "RETRY_WINDOW", timedelta(seconds=1))  # as long as one request, less
    with LyingS3() as liar:
        liar.stalls_s = 3.0
        store = s3.open_s3(
            "backups", "/here", {k: v for k, v in liar.options().items() if k != "url"}
        )
        write = store._write

        def counted(name: str, views: Any, mode: Any) -> None:
            begun.append(name)
            write(name, views, mode)

        monkeypatch.setattr(store, "_write", counted)
        with watched("a put", LIMIT_S), pytest.raises(StoreUnavailable, match="timed out"):
            store.put("a/b", b"1")
    assert begun == ["a/b"], "no attempt begins once the window is over"
