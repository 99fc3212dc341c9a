"""YAML is read so that nothing is lost, guessed or left unbounded."""

from __future__ import annotations

from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.errors import PlanError
from backup_pipeline.plan import load_plan
from backup_pipeline.plan.document import read_document


def content_of(text: str | bytes, folder: Path) -> dict[str, Any]:
    file = folder / "plan.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    document = read_document(file)
    assert not document.problems, document.problems
    return document.content


def refused(text: str | bytes, folder: Path) -> PlanError:
    file = folder / "plan.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PlanError) as caught:
        load_plan(file, environ={})
    return caught.value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("02:00", "02:00"),
        ("2026-11-22", "2026-11-22"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("007", 7),
        ("0o17", "0o17"),
        ("1e3", "1e3"),
        ("5%", "5%"),
        ("0.5", 0.5),
        ("~", None),
        ("", None),
        ("'12'", "12"),
    ],
)
def test_scalars_follow_yaml_1_2(written: str, value: Any, tmp_path: Path) -> None:
    assert content_of(f"key: {written}", tmp_path) == {"key": value}


def test_anchors_and_merge_keys_are_taken(tmp_path: Path) -> None:
    text = "a: &x {every: day, at: '01:00'}\nb: {<<: *x, at: '03:00'}\nc: *x\n"
    content = content_of(text, tmp_path)
    assert content["b"] == {"every": "day", "at": "03:00"}
    assert content["c"] == content["a"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("start: [1\nstores: }\n", 2, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: &x [*x]\n", 1, "may not contain itself"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tags are not taken"),
        ("a: !secret x\n", 1, "tags are not taken"),
        ("? [a, b]\n: 1\n", 1, "a key must be plain text"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("- a\n", 1, "a plan is a mapping"),
        ("just text\n", 1, "a plan is a mapping"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_line(
    text: str, line: int, says: str, tmp_path: Path
) -> None:
    error = refused(text, tmp_path)
    assert any(says in p.message and p.line == line for p in error.problems), str(error)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        (b"a: \xff\n", "not UTF-8"),
        ("a: \x01\n", "control characters"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("\n".join(["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"] + [
            f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)
        ]), "aliases unfold"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused_quickly(text: str | bytes, says: str, tmp_path: Path) -> None:
    assert says in str(refused(text, tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"nothing\.yaml"):
        load_plan(tmp_path / "nothing.yaml")
    with pytest.raises(PlanError, match="cannot read"):
        load_plan(tmp_path)


def test_a_mapping_may_hold_python_values() -> None:
    plan = load_plan(
        {
            "start": date(2026, 11, 22),
            "stores": {"local": Path("/srv/b")},
            "policies": {
                "default": {
                    "tiers": (
                        {"name": "local", "at": time(3, 30), "full_every": timedelta(days=9)},
                    )
                }
            },
            "datasets": [{"asset": "a", "source": "/d"}],
        },
        environ={},
    )
    tier = plan.dataset("a").first_tier
    assert (tier.at, tier.full_every) == (time(3, 30), timedelta(days=9))
    assert load_plan(plan.document, environ={}) == plan


def test_a_time_that_yaml_1_1_made_a_number_is_explained() -> None:
    tiers = [{"name": "local", "at": 120}]
    document = {
        "start": "2026-11-22",
        "stores": {"local": "/srv/b"},
        "policies": {"default": {"tiers": tiers}},
        "datasets": [{"asset": "a", "source": "/d"}],
    }
    with pytest.raises(PlanError, match="put it in quotes"):
        load_plan(document)


def test_python_values_that_no_file_can_hold_are_refused() -> None:
    with pytest.raises(PlanError, match="a plan cannot hold a Python bytes"):
        load_plan({"start": b"x"})
    loop: dict[str, Any] = {}
    loop["stores"] = loop
    with pytest.raises(PlanError, match="nested too deeply"):
        load_plan(loop)


SOME_KEYS = st.sampled_from(
    [
        "start",
        "timezone",
        "stores",
        "local",
        "url",
        "lock",
        "mode",
        "days",
        "keys",
        "main",
        "passphrase",
        "env",
        "file",
        "policies",
        "default",
        "tiers",
        "name",
        "every",
        "at",
        "weekday",
        "kind",
        "full_every",
        "keep",
        "daily",
        "rpo",
        "drill",
        "run",
        "tags",
        "datasets",
        "asset",
        "assets",
        "source",
        "files",
        "objects",
        "day_paths",
        "override",
        "holds",
        "deployment",
        "environments",
        "dev",
        "scratch",
        "exclude",
        "from",
    ]
)
SOME_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["2026-11-22", "UTC", "/srv/b", "s3://b/p", "day", "5%", "1 hour", "local"]),
    st.text(max_size=8),
)
SOME_PLANS = st.recursive(
    SOME_VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SOME_KEYS, inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(SOME_KEYS, SOME_PLANS, max_size=8))
def test_any_mapping_is_a_plan_or_is_refused_with_reasons(document: dict[str, Any]) -> None:
    base = {
        "start": "2026-11-22",
        "stores": {"local": "/srv/b"},
        "datasets": [{"asset": "a", "source": "/d"}],
    }
    try:
        plan = load_plan({**base, **document}, environ={})
    except PlanError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)
    else:
        assert load_plan(plan.document, environ={}) == plan
