"""The house is in order: what the documentation says exists, and what exists is documented."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import backup_pipeline
from backup_pipeline.cli import main as command_line
from backup_pipeline.demo.proof import witness

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda page: page.as_posix()
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in _FENCE.findall(page.read_text()):
        if language in languages:
            yield text


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _help(*words: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert command_line([*words, "--help"]) == 0
    return printed.getvalue()


@cache
def _verbs() -> dict[str, set[str]]:
    """Every verb that the command line's own help lists, with its options."""
    _, _, listing = _help().partition("Verbs:")
    names = re.findall(r"^  ([a-z-]+)  ", listing, re.M)
    return {
        name: set(re.findall(r"(?<![\w-])--[a-z-]+", _help(name).partition("Options:")[2]))
        for name in names
    }


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{_name(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(there), f"{_name(page)} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for target in _LINK.findall(page.read_text()):
            there = (page.parent / target.partition("#")[0]).resolve()
            if there.suffix == ".md" and there.exists() and there not in reached:
                waiting.append(there)
    assert not [_name(page) for page in PAGES if page not in reached]


def _typed_commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in _blocks(page, "bash", "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for end in ("|", "&&", ">", ">/dev/null", ";"):
                    words = words[: words.index(end)] if end in words else words
                if words:
                    yield _name(page), words


def test_every_make_target_that_the_pages_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        (page, words[1]) for page, words in _typed_commands() if words[0] == "make" and words[1:]
    }
    assert named
    assert not [(page, target) for page, target in named if target not in targets]


def test_every_command_that_the_pages_show_is_one_that_the_command_line_takes() -> None:
    seen = 0
    for page, words in _typed_commands():
        if words[0] != "backup-pipeline" or len(words) < 2:
            continue
        seen += 1
        if words[1].startswith("-"):
            continue
        options = _verbs().get(words[1])
        assert options is not None, f"{page}: {' '.join(words)}"
        unknown = {word for word in words[2:] if word.startswith("--")} - options
        assert not unknown, f"{page}: {' '.join(words)}"
    assert seen > 20


def test_every_verb_and_every_option_is_documented() -> None:
    reference = (ROOT / "docs" / "command-line.md").read_text()
    sections = dict(re.findall(r"^## `([a-z-]+)`$(.*?)(?=^## |\Z)", reference, re.M | re.S))
    common = reference.partition("\n## `")[0]
    assert set(sections) == set(_verbs())
    for name, options in _verbs().items():
        described = set(re.findall(r"`(--[a-z-]+)", sections[name] + common))
        assert not options - described, f"docs/command-line.md, {name}"
        own = set(re.findall(r"`(--[a-z-]+)", sections[name]))
        assert not own - options, f"docs/command-line.md, {name}"


def test_every_plan_that_the_pages_show_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    from backup_pipeline.plan import load_plan

    seen = 0
    monkeypatch.setenv("BACKUP_PASSPHRASE", "only for this test")
    for page in PAGES:
        for block in _blocks(page, "yaml"):
            document = yaml.load(block, Loader=yaml.BaseLoader)
            if isinstance(document, dict) and {"start", "stores", "datasets"} <= set(document):
                seen += 1
                (tmp_path / "backup.yaml").write_text(block)
                load_plan(tmp_path / "backup.yaml")
    assert seen >= 2


def test_the_public_names_are_these() -> None:
    assert backup_pipeline.__all__ == [
        "BackupComponent",
        "BackupTranslator",
        "Plan",
        "Runner",
        "backup",
        "build_backup_defs",
        "drill_test",
        "load_plan",
    ]
    for name in backup_pipeline.__all__:
        assert getattr(backup_pipeline, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'restor'"):
        _ = backup_pipeline.restor


def test_nothing_that_is_shipped_names_this_machine() -> None:
    home = re.escape(str(Path.home())) if len(str(Path.home())) > 1 else "(?!)"
    pattern = re.compile(rf"{re.escape(str(ROOT))}/|{home}/\w")
    shipped = [*PAGES, *(ROOT / "backup_pipeline").rglob("*.py")]
    assert not [_name(path) for path in shipped if pattern.search(path.read_text())]


def test_every_key_of_a_plan_is_documented() -> None:
    from pydantic import BaseModel

    from backup_pipeline.plan import schema

    reference = (ROOT / "docs" / "plan.md").read_text()
    models = [
        model
        for model in vars(schema).values()
        if isinstance(model, type) and issubclass(model, BaseModel)
    ]
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert len(keys) > 40
    assert not {key for key in keys if not re.search(rf"\b{key}\b", reference)}


def _in_own_paths(text: str, top: Path) -> str:
    """A page's commands, with the paths that a reader would put in."""
    for shown, own in (
        ("--to /data/images", f"--to {top}/again"),
        ("/srv/backups", f"{top}/store"),
        ("/data/images", f"{top}/images"),
        ("/tmp/back", f"{top}/back"),
        ("pip install .", "true"),
    ):
        text = text.replace(shown, own)
    return text


def test_the_readme_works_word_by_word(tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(ROOT / "docs" / "how-to", images)
    blocks = [block for block in _blocks(ROOT / "README.md", "bash") if "make " not in block]
    script = _in_own_paths("set -e\n" + "\n".join(blocks), tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert witness(tmp_path / "back") == witness(tmp_path / "again") == witness(images)


def test_a_backup_in_one_call_works_as_the_page_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKUP_PASSPHRASE", "only for this test")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one").write_bytes(b"1")
    page = ROOT / "docs" / "how-to" / "first-backup.md"
    (block,) = [one for one in _blocks(page, "python") if "backup_pipeline.backup(" in one]
    exec(compile(_in_own_paths(block, tmp_path), str(page), "exec"), {})
    _, files, stored_bytes = capsys.readouterr().out.split()
    assert int(files) == 1
    assert int(stored_bytes) > 0
