"""Alerts: each condition once, and once more when it is over; to real receivers on 127.0.0.1."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan import load_plan
from backup_pipeline.posture.alerts import AlertFailed, send, tell
from backup_pipeline.posture.conditions import MISSED_DAYS, Condition
from backup_pipeline.posture.telling import message, news
from backup_pipeline_tests.posture.receivers import hook, mailbox
from backup_pipeline_tests.posture.scene import Scene
from backup_pipeline_tests.posture.test_judging import NOW

TODAY = NOW.date()
LATE = Condition("rpo:a:local", "rpo_missed", "a in local", "it is old")
RISK = Condition("at_risk:a:local", "at_risk", "a in local", "it gets old")
GONE = Condition("unreachable:a:local", "failed", "a in local", "no answer")
OTHER = Condition("verify:b:local", "failed", "b in local", "2 errors")


def missed(day: date) -> Condition:
    return Condition(f"missed {day}:a:local", "missed_day", "a in local", f"{day} is missing", day)


# -- what is news


def test_a_condition_is_told_once_and_once_more_when_it_is_over() -> None:
    first = news({}, [LATE, OTHER], NOW, today=TODAY)
    assert ([one.key for one in first.new], list(first.over)) == (
        ["rpo:a:local", "verify:b:local"],
        [],
    )
    again = news(first.told, [replace(LATE, says="it is older"), OTHER], NOW, today=TODAY)
    assert not again
    after = news(again.told, [OTHER], NOW, today=TODAY)
    assert (list(after.new), list(after.over)) == ([], ["a in local: it is old"])
    assert list(after.told) == ["verify:b:local"]
    assert not news(after.told, [OTHER], NOW, today=TODAY)


def test_a_tier_that_nobody_can_ask_has_not_recovered() -> None:
    told = news({}, [LATE, missed(TODAY)], NOW, today=TODAY).told
    blind = news(told, [GONE], NOW, today=TODAY)
    assert ([one.key for one in blind.new], list(blind.over)) == (["unreachable:a:local"], [])
    back = news(blind.told, [LATE, missed(TODAY)], NOW, today=TODAY)
    assert (list(back.new), list(back.over)) == ([], ["a in local: no answer"])


def test_a_missed_day_that_is_long_past_is_let_go_of_without_a_word() -> None:
    told = news({}, [missed(TODAY)], NOW, today=TODAY).told
    last = TODAY + timedelta(days=MISSED_DAYS)
    assert list(news(told, [], NOW, today=last).over) == [f"a in local: {TODAY} is missing"]
    past = news(told, [], NOW, today=last + timedelta(days=1))
    assert (list(past.over), dict(past.told)) == ([], {})


def test_a_message_says_how_many_and_does_not_grow_without_end() -> None:
    many = [replace(LATE, key=f"rpo:{number}") for number in range(100)]
    title, text = message(news({}, many, NOW, today=TODAY), "prod")
    assert title == "Backups of prod: 100 need a person"
    assert len(text.splitlines()) == 31
    assert text.endswith("and 70 more: backup-pipeline status")


# -- to whom


def plan(**alerts: Any) -> Any:
    to = alerts.pop("to", [{"env": "ONE"}, {"env": "TWO"}])
    return load_plan(
        {
            "start": "2026-11-01",
            "stores": {"local": "/srv/b"},
            "datasets": [{"asset": "a", "source": "/x"}],
            "alerts": {"to": to, **alerts},
        }
    )


ENVIRON = {"ONE": "json://one", "TWO": "json://two"}


class Receivers:
    """Stand in for apprise, so that each can be down."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.taken: list[tuple[str, str]] = []

    def __call__(self, url: str, title: str, text: str) -> None:
        del text
        if url in self.down:
            raise AlertFailed("no answer")
        self.taken.append((url, title))


def test_a_receiver_that_was_down_is_told_next_time_and_the_other_hears_nothing_twice() -> None:
    receivers = Receivers()
    receivers.down = {"json://two"}
    told = tell(plan(), [LATE], {}, environ=ENVIRON, now=NOW, deliver=receivers)
    assert [url for url, _ in receivers.taken] == ["json://one"]
    (failure,) = told.failures
    assert "environment variable TWO was not told" in failure.message
    assert "json://two" not in str(failure)
    receivers.down = set()
    state = json.loads(json.dumps(told.state))
    told = tell(plan(), [LATE], state, environ=ENVIRON, now=NOW, deliver=receivers)
    assert [url for url, _ in receivers.taken] == ["json://one", "json://two"]
    assert not told.failures
    # What was over before it could be told is not told at all.
    receivers.down = {"json://one", "json://two"}
    told = tell(plan(), [LATE, OTHER], told.state, environ=ENVIRON, now=NOW, deliver=receivers)
    receivers.down = set()
    told = tell(plan(), [LATE], told.state, environ=ENVIRON, now=NOW, deliver=receivers)
    assert len(receivers.taken) == 2


def test_only_what_a_plan_asks_for_is_told() -> None:
    receivers = Receivers()
    told = tell(
        plan(about=["at_risk"], to=[{"env": "ONE"}]),
        [LATE, RISK],
        {},
        environ=ENVIRON,
        now=NOW,
        deliver=receivers,
    )
    assert receivers.taken == [("json://one", "Backups of all datasets: 1 needs a person")]
    assert told.done == ["environment variable ONE was told: " + receivers.taken[0][1]]


def test_a_url_that_is_not_there_is_said_and_tried_again() -> None:
    receivers = Receivers()
    told = tell(plan(), [LATE], {}, environ={"ONE": "json://one"}, now=NOW, deliver=receivers)
    (failure,) = told.failures
    assert "environment variable TWO" in failure.message
    assert "TWO is not set" not in failure.message or failure.hint
    assert len(receivers.taken) == 1


def test_a_state_of_another_shape_is_taken_as_nothing_told() -> None:
    receivers = Receivers()
    for state in ({"receivers": 7}, {"receivers": {"environment variable ONE": [1]}}, {}):
        told = tell(plan(), [LATE], state, environ=ENVIRON, now=NOW, deliver=receivers)
        assert len(told.done) == 2


# -- through apprise, to real receivers


def test_a_webhook_is_told() -> None:
    with hook() as receiver:
        send(receiver.url, "title", "first\nsecond <b>&")
    (said,) = receiver.taken
    assert (said["title"], said["message"]) == ("title", "first\nsecond <b>&")


def test_a_mail_is_sent() -> None:
    with mailbox() as (url, messages):
        send(url, "Backups of prod: 1 needs a person", "a in local: ä\nsecond")
    (mail,) = messages
    assert mail["Subject"] == "Backups of prod: 1 needs a person"
    body = mail.get_body(("plain",))
    assert body is not None
    assert "a in local: ä\nsecond" in body.get_content().replace("\r\n", "\n")


def test_a_receiver_that_fails_is_told_of_without_its_secrets() -> None:
    with hook() as receiver:
        receiver.refuses = True
        with pytest.raises(AlertFailed, match="not taken") as refused:
            send(receiver.url, "title", "text")
    with pytest.raises(AlertFailed) as gone:
        send(receiver.url, "title", "text")
    with pytest.raises(UsageError, match="knows no such URL") as unknown:
        send("nonsense://a-long-secret", "title", "text")
    for error in (refused, gone, unknown):
        assert "a-long-secret" not in str(error.value)


def test_without_apprise_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UsageError, match=r"pip install 'backup-pipeline\[alerts\]'"):
        send("json://127.0.0.1", "title", "text")


# -- from the command line


@pytest.fixture
def status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `status --alert` over a plan whose only dataset was never backed up."""
    import yaml

    scene = Scene(tmp_path, alerts={"to": [{"env": "HOOK"}]})
    (tmp_path / "backup.yaml").write_text(yaml.safe_dump(scene.document))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name, value in scene.environ.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> tuple[int, str]:
        code = main(["status", "--alert", *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_status_tells_what_is_new_and_what_is_over(
    status: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hook() as receiver:
        monkeypatch.setenv("HOOK", receiver.url)
        receiver.refuses = True
        code, said = status()
        assert code == 3
        assert "error: environment variable HOOK was not told" in said
        assert "a-long-secret" not in said
        receiver.refuses = False
        code, said = status()
        assert (code, len(receiver.taken)) == (1, 1)
        assert "no good snapshot" in receiver.taken[0]["message"]
        status()
        assert len(receiver.taken) == 1, "it is told once"
        assert [file.name[:7] for file in (tmp_path / "state/backup-pipeline").iterdir()] == [
            "alerts-"
        ]
        state = next((tmp_path / "state/backup-pipeline").iterdir())
        assert "a-long-secret" not in state.read_text()
        main(["backup", "vision/a"])
        status()
        assert "recovered" in receiver.titles[-1]
        before = len(receiver.taken)
        status("--alert-state", str(tmp_path / "another.json"))
        assert len(receiver.taken) == before + 1, "another account knows nothing yet"


@pytest.mark.parametrize("words", [["--tier", "local"], ["vision/a"]])
def test_alerts_look_at_the_whole_plan(
    status: Callable[..., tuple[int, str]], words: list[str]
) -> None:
    code, said = status(*words)
    assert code == 2
    assert "whole plan" in said


def test_a_file_that_does_not_say_what_was_told_is_refused(
    status: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    for content in ("no json", "[]", "{}"):
        (tmp_path / "told.json").write_text(content)
        code, said = status("--alert-state", str(tmp_path / "told.json"))
        assert code == 2, content
        assert "told.json" in said
