"""Write the table of docs/reliability.md from test runs: promise, test, cases, last result.

    pytest --junitxml run.xml ...  &&  python -m benchmarks.reliability run.xml [more.xml ...]

Only tests with a ``promise`` mark count (backup_pipeline_tests/promises.py). Where several files
hold the same test, the later file counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from backup_pipeline_tests.promises import PROMISES

__all__ = ["Proof", "day_of", "main", "proofs_in", "table"]

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- proofs: begin -->", "<!-- proofs: end -->"


@dataclass(slots=True)
class Proof:
    """One test and how it ended; variants of a parametrized test are one.

    Attributes:
        promise: Which promise it proves.
        module: Its module, dotted.
        name: The function's name.
        cases: How many cases ran.
        seconds: How long they took.
        failed: Variants that failed.
        skipped: Why variants were skipped, one reason each.
        passed: Variants that passed.
    """

    promise: str
    module: str
    name: str
    cases: int = 0
    seconds: float = 0.0
    failed: int = 0
    passed: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        """One cell of the table."""
        words: list[str] = []
        if self.failed:
            words.append(f"**{self.failed} failed**")
        if self.passed:
            words.append(f"passed in {max(self.seconds, 0.1):.1f} s")
        reasons = sorted(set(self.skipped))
        words += [f"skipped: {reason}" for reason in reasons]
        return ", ".join(words).replace("|", "\\|")


def proofs_in(paths: Iterable[Path]) -> list[Proof]:
    """The tests with a promise in some JUnit XML files, in the order of the promises."""
    found: dict[tuple[str, str], Proof] = {}
    for path in paths:
        here: dict[tuple[str, str], Proof] = {}
        for case in ElementTree.parse(path).iter("testcase"):
            said = {one.get("name"): one.get("value") or "" for one in case.iter("property")}
            if "promise" in said:
                _add(here, case, said)
        found.update(here)
    order = list(PROMISES)
    return sorted(found.values(), key=lambda one: (order.index(one.promise), one.module, one.name))


def _add(
    found: dict[tuple[str, str], Proof], case: ElementTree.Element, said: dict[str | None, str]
) -> None:
    module, name = case.get("classname", ""), case.get("name", "").partition("[")[0]
    proof = found.setdefault((module, name), Proof(said["promise"], module, name))
    proof.seconds += float(case.get("time", 0))
    skipped = case.find("skipped")
    if skipped is not None:
        proof.skipped += (skipped.get("message", "").partition("\n")[0],)
        return
    proof.cases += int(said.get("cases", 1))
    if case.find("failure") is not None or case.find("error") is not None:
        proof.failed += 1
    else:
        proof.passed += 1


def day_of(paths: Iterable[Path]) -> str:
    """When the last of some runs began: its date, as the report has it."""
    suites = (one for path in paths for one in ElementTree.parse(path).iter("testsuite"))
    return max(one.get("timestamp", "")[:10] for one in suites)


def table(proofs: Sequence[Proof], day: str) -> str:
    """The rows in Markdown."""
    lines = ["| Promise | Test | Cases | Last result |", "|---|---|---:|---|"]
    before = ""
    for one in proofs:
        promise = PROMISES[one.promise] if one.promise != before else ""
        before = one.promise
        where = f"../{one.module.replace('.', '/')}.py"
        title = one.name.removeprefix("test_").replace("_", " ")
        lines.append(f"| {promise} | [{title}]({where}) | {one.cases:,} | {one.result} |")
    count, variants = sum(one.cases for one in proofs), len(proofs)
    lines.append(f"\n{count:,} cases in {variants} tests, run on {day}.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the page's table, or print it; the exit code."""
    parser = argparse.ArgumentParser("benchmarks.reliability", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.xml")
    parser.add_argument("--print", action="store_true", help="print the table, write nothing")
    chosen = parser.parse_args(arguments)
    proofs = proofs_in(chosen.runs)
    if not proofs:
        print("none of these runs holds a test with a promise", file=sys.stderr)
        return 2
    written = table(proofs, day_of(chosen.runs))
    if chosen.print:
        print(written)
    else:
        head, _, rest = PAGE.read_text().partition(BEGIN)
        _, end, tail = rest.partition(END)
        assert end, f"{PAGE} lacks {BEGIN} and {END}"
        PAGE.write_text(f"{head}{BEGIN}\n{written}\n{END}{tail}")
    return 1 if any(one.failed for one in proofs) else 0


if __name__ == "__main__":
    sys.exit(main())
