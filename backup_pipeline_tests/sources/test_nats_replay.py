"""Replays: what is published again and what is not, what signs in, and the page that says it."""

from __future__ import annotations

import base64
import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.errors import BackupError, SourceError, UsageError
from backup_pipeline.sources.nats import ORIGIN, NatsFeed, load_stream
from backup_pipeline.sources.stream import State, StreamSource
from backup_pipeline_tests.sources.lake import Keeper, blocks, run
from backup_pipeline_tests.sources.nats_server import Nats
from backup_pipeline_tests.sources.test_topic import MockKafka

pytestmark = pytest.mark.services


def restored(nats: Nats, to: Path) -> str:
    """A restored backup of EVENTS, which is gone since."""
    keeper = Keeper()
    made = keeper.back_up(
        StreamSource("nats", "EVENTS", NatsFeed({"url": nats.url, "stream": "EVENTS"}))
    )
    keeper.restore(made, to)
    nats.api("STREAM.DELETE.EVENTS")
    return str(to)


def test_headers_keep_all_their_values_and_those_that_jetstream_acts_on_are_left_out(
    nats: Nats, tmp_path: Path
) -> None:
    nats.make(allow_rollup_hdrs=True)
    nats.send("events.a", b"1", {"n": "first", "n ": "second", "n  ": "", "N": "other"})
    nats.send("events.a", b"2", {ORIGIN: "OLDER:7", f"{ORIGIN} ": "OLDER:8", "Nats-Msg-Id": "id"})
    nats.send("events.a", b"3", {"Nats-Expected-Last-Sequence": "2"})
    directory = restored(nats, tmp_path / "back")
    kept = Path(directory, "messages/EVENTS/00000000000000000001.jsonl").read_text()
    assert '"Nats-Msg-Id":["id"]' in kept

    load_stream(directory, f"{nats.url}/AGAIN", report=print)
    first, second, third = (dict(one.headers or {}) for one in nats.messages("AGAIN"))
    own = "Nats-Expected-Stream"
    assert first.pop(own) == ["AGAIN"]
    assert first == {"n": ["first", "second", ""], "N": ["other"], ORIGIN: ["EVENTS:1"]}
    assert second == {ORIGIN: ["EVENTS:2"], own: ["AGAIN"]}
    assert third == {ORIGIN: ["EVENTS:3"], own: ["AGAIN"]}


def test_a_target_that_was_emptied_gets_all_again_and_one_without_its_end_is_refused(
    nats: Nats, tmp_path: Path
) -> None:
    nats.make()
    nats.publish(1, 4)
    directory = restored(nats, tmp_path / "back")
    said: list[str] = []

    def replay() -> int:
        return load_stream(directory, f"{nats.url}/AGAIN", report=said.append)["messages"]

    assert (replay(), replay()) == (4, 0)
    assert not any("is empty now" in one for one in said)
    nats.api("STREAM.PURGE.AGAIN")
    assert (replay(), replay()) == (4, 0)
    assert "AGAIN had messages and is empty now: all are published" in said
    nats.api("STREAM.MSG.DELETE.AGAIN", seq=8)
    with pytest.raises(SourceError, match="last message of stream AGAIN was taken out"):
        replay()


def test_what_was_no_stream_of_nats_needs_one_that_is_there(nats: Nats, tmp_path: Path) -> None:
    class Other(NatsFeed):
        """A stream of another system: it begins at 0, and its configuration is its own."""

        def state(self) -> State:
            return State("one", 0, 2, begins=0)

        def messages(self, first: int, last: int) -> Iterator[Any]:
            for one in super().messages(first + 1, last + 1):
                yield type(one)(one.sequence - 1, one.time, one.subject, one.payload)

    nats.make()
    nats.publish(1, 3)
    keeper = Keeper()
    feed = Other({"url": nats.url, "stream": "EVENTS"})
    directory = str(
        keeper.restore(keeper.back_up(StreamSource("other", "EVENTS", feed)), tmp_path / "back")
    )
    nats.api("STREAM.DELETE.EVENTS")
    with pytest.raises(SourceError, match="AGAIN is not there, and EVENTS was none of NATS"):
        load_stream(directory, f"{nats.url}/AGAIN", report=print)
    nats.make("AGAIN")
    assert load_stream(directory, f"{nats.url}/AGAIN", report=print)["messages"] == 3
    assert load_stream(directory, f"{nats.url}/AGAIN", report=print)["messages"] == 0


@pytest.mark.parametrize(
    ("arguments", "sign_in"),
    [
        (("--user", "me", "--pass", "hidden"), {"user": "me", "password": "hidden"}),
        (("--auth", "hidden"), {"token": "hidden"}),
    ],
)
def test_a_replay_signs_in_by_the_environment_or_the_url_and_tells_no_secret(
    arguments: tuple[str, ...],
    sign_in: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = Nats(tmp_path / "nats", *arguments, **sign_in)
    try:
        server.make()
        server.publish(1, 3)
        by_name = {name: {"env": f"NATS_{name.upper()}"} for name in sign_in}
        source = {"url": server.url, "stream": "EVENTS", **by_name}
        plan = {
            "start": "2026-11-01",
            "encryption": "none",
            "stores": {"local": str(tmp_path / "store")},
            "datasets": [{"asset": "events", "source": {"nats": source}}],
        }
        (tmp_path / "backup.yaml").write_text(json.dumps(plan))
        for name, value in sign_in.items():
            monkeypatch.setenv(f"NATS_{name.upper()}", value)
        chosen = ["--plan", str(tmp_path / "backup.yaml")]
        assert main(["backup", *chosen]) == 0
        server.api("STREAM.DELETE.EVENTS")

        restore = ["restore", "events", *chosen, "--to", str(tmp_path / "back"), "--into"]
        assert main([*restore, f"{server.url}/BY_ENVIRONMENT"]) == 0
        server.api("STREAM.DELETE.BY_ENVIRONMENT")
        for name in sign_in:
            monkeypatch.setenv(f"NATS_{name.upper()}", "wrong hidden")
        assert main([*restore, f"{server.url}/AGAIN"]) == 3
        written = ":".join(sign_in.values())
        assert main([*restore, f"{server.url.replace('//', f'//{written}@')}/BY_URL"]) == 0
        assert server.api("STREAM.INFO.BY_URL")["state"]["messages"] == 3
        said = "".join(capsys.readouterr())
        assert "are the credentials right?" in said
        assert "hidden" not in said
    finally:
        server.close()


_KINDS = {"system": "account"}


class Operator:
    """Keys and claims as ``nsc`` makes them: a server's configuration, and a credentials file."""

    def __init__(self) -> None:
        nkeys = pytest.importorskip("nkeys")
        self.pairs: dict[str, Any] = {}
        for number, name in enumerate(("operator", "account", "system", "user")):
            kind = _KINDS.get(name, name)
            prefix = getattr(nkeys, f"PREFIX_BYTE_{kind.upper()}")
            seed = nkeys.encode_seed(bytes([number]) * 32, prefix)
            self.pairs[name] = nkeys.from_seed(bytearray(seed))

    def public(self, name: str) -> str:
        return self.pairs[name].public_key.decode()

    def claims(self, name: str, by: str, **more: Any) -> str:
        def part(content: bytes) -> str:
            return base64.urlsafe_b64encode(content).decode().rstrip("=")

        said = {
            "jti": name,
            "iat": int(time.time()),
            "iss": self.public(by),
            "sub": self.public(name),
            "name": name,
            "nats": {"type": _KINDS.get(name, name), "version": 2, **more},
        }
        head = part(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
        text = f"{head}.{part(json.dumps(said).encode())}"
        return f"{text}.{part(self.pairs[by].sign(text.encode()))}"

    def configuration(self) -> str:
        boundless = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
        limits = dict.fromkeys(boundless, -1)
        stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        accounts = {
            "account": self.claims("account", "operator", limits=limits | stored),
            "system": self.claims("system", "operator", limits=limits),
        }
        lines = [f"{self.public(name)}: {claims}\n" for name, claims in accounts.items()]
        return (
            f"operator: {self.claims('operator', 'operator')}\n"
            f"system_account: {self.public('system')}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{''.join(lines)}}}\n"
        )

    def credentials(self) -> str:
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = self.claims("user", "account", pub={}, sub={}, **limits)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.pairs['user'].seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )


def test_a_credentials_file_serves_a_source_and_a_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Operator()
    (tmp_path / "nats.conf").write_text(operator.configuration())
    file = tmp_path / "backup.creds"
    file.write_text(operator.credentials())
    named, content = {"credentials": str(file)}, {"credentials": operator.credentials()}
    server = Nats(tmp_path / "nats", "-c", str(tmp_path / "nats.conf"), **named)
    try:
        server.make()
        server.publish(1, 3)
        keeper = Keeper()
        feed = NatsFeed({"url": server.url, "stream": "EVENTS", **content})
        made = keeper.back_up(StreamSource("nats", "EVENTS", feed))
        directory = str(keeper.restore(made, tmp_path / "back"))
        server.api("STREAM.DELETE.EVENTS")
        with pytest.raises(SourceError, match="are the credentials right"):
            load_stream(directory, f"{server.url}/AGAIN", report=print)
        monkeypatch.setenv("NATS_CREDS", str(file))
        assert load_stream(directory, f"{server.url}/AGAIN", report=print)["messages"] == 3
    finally:
        server.close()


@pytest.mark.parametrize(
    ("given", "why"),
    [("/nowhere/hidden", "No such file"), ("hidden\n" * 99, "File name too long")],
)
def test_credentials_that_are_none_are_one_clear_error(given: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as raised:
        NatsFeed({"url": "nats://127.0.0.1:9", "stream": "EVENTS", "credentials": given})
    assert "hidden" not in f"{raised.value} {raised.value.hint}"


def test_a_credentials_file_with_none_in_it_is_refused(tmp_path: Path) -> None:
    for content in (b"no credentials\n", b"\xff"):
        (tmp_path / "creds").write_bytes(content)
        with pytest.raises(BackupError, match="credentials for NATS cannot be read"):
            given = {"credentials": str(tmp_path / "creds")}
            NatsFeed({"url": "nats://127.0.0.1:9", "stream": "EVENTS", **given})


def test_the_page_on_streams_works_as_it_is_shown(nats: Nats, tmp_path: Path) -> None:
    (written,), (shown,), (replayed,), (code,) = (
        blocks("how-to/streams.md", language) for language in ("yaml", "text", "bash", "python")
    )
    plan = tmp_path / "backup.yaml"
    plan.write_text(
        "start: 2026-11-01\nencryption: none\n"
        f"stores: {{local: {tmp_path}/a, cloud: {tmp_path}/b}}\n"
        + written.replace("nats://host:4222", nats.url)
    )
    nats.make()
    nats.publish(1, 1001)
    for _ in range(2):  # the second finds nothing new
        run("-m", "backup_pipeline", "backup", "events", "--plan", str(plan))
    nats.api("STREAM.DELETE.EVENTS")
    text = replayed.replace("nats://host:4222", nats.url).replace("backup.yaml", str(plan))
    text = text.replace("--to back", f"--to {tmp_path}/back")
    (words,) = (shlex.split(line)[1:] for line in text.splitlines() if "restore" in line)
    assert "1001 messages into EVENTS_RESTORED" in run("-m", "backup_pipeline", *words)
    assert run("-m", "backup_pipeline", *words).count("0 messages into") == 1
    found = nats.messages("EVENTS_RESTORED")
    assert [(one.headers or {})[ORIGIN] for one in found] == [
        [f"EVENTS:{number}"] for number in range(1, 1002)
    ]

    lines = [line.split(None, 1) for line in shown.splitlines()]
    back = tmp_path / "back"
    there = {one.relative_to(back).as_posix() for one in back.rglob("*") if one.is_file()}
    assert {path for path, *_ in lines} == there
    message = json.loads((back / lines[0][0]).read_text().splitlines()[0])
    assert list(message) == re.findall(r'"(\w+)":', lines[0][1])

    names: dict[str, Any] = {"partitions_of": lambda options: range(2)}
    names["Partition"] = lambda options, number: MockKafka(count=3 + number)
    exec(compile(code, "streams.md", "exec"), names)
    opened = names["open_topic"]({"servers": "kafka", "topic": "orders"}, exclude=(), day=None)
    made = Keeper().back_up(opened)
    assert made.files == 4
