"""Mistakes in the tests of drills."""

from __future__ import annotations

from backup_pipeline_tests.plan.mistakes import Mistake, policy

AT = "policies.default.drill.tests[0]"


def _test(written: str) -> str:
    return policy(f"tiers: [{{name: local}}]\ndrill: {{tests: [{written}]}} #!")


MISTAKES = [
    Mistake("test of nothing", _test("{rows: 3}"), AT, "either table or check"),
    Mistake("test of two things", _test("{table: a, check: 'a:b'}"), AT, "either table or check"),
    Mistake("test is a word", _test("orders"), AT, "not a test", "table: GLOB"),
    Mistake("unknown key of a test", _test("{table: a, uniqe: [b]}"), f"{AT}.uniqe", "'uniqe'"),
    Mistake("function without module", _test("{check: loads}"), f"{AT}.check", "not a function"),
    Mistake("function is a path", _test("{check: 'a/b.py:f'}"), f"{AT}.check", "not a function"),
    Mistake("function with rows", _test("{check: 'a:b', rows: 3}"), AT, "takes no rows"),
    Mistake("table with needs", _test("{table: a, needs: [b]}"), AT, "takes no needs"),
    Mistake(
        "suite of another form", _test("{table: a, suite: a.yaml}"), f"{AT}.suite", "not a suite"
    ),
    Mistake("take what", _test("{table: a, take: some}"), f"{AT}.take", "not one of sample, all"),
    Mistake(
        "range runs backwards",
        _test("{table: a, rows: {min: 3, max: 2}}"),
        f"{AT}.rows",
        "holds noth",
    ),
    Mistake(
        "range of nothing",
        _test("{table: a, ranges: {b: {}}}"),
        f"{AT}.ranges.b",
        "bounds of nothing",
    ),
    Mistake(
        "bound is a word", _test("{table: a, rows: {min: few}}"), f"{AT}.rows.min", "not a number"
    ),
    Mistake("needs nothing", _test("{check: 'a:b', needs: []}"), f"{AT}.needs", "empty"),
]

MISTAKES += [
    Mistake(
        "completeness of an unknown kind",
        policy("tiers: [{name: local}]\ncompleteness: {shrinks: 5%} #!"),
        "policies.default.completeness.shrinks",
        "unknown key",
        "'shrink'",
    ),
    Mistake(
        "shrink without per cent",
        policy("tiers: [{name: local}]\ncompleteness: {shrink: 5} #!"),
        "policies.default.completeness.shrink",
        "5 is not a share",
    ),
    Mistake(
        "emptied is no word of ours",
        policy("tiers: [{name: local}]\ncompleteness: {emptied: warn} #!"),
        "policies.default.completeness.emptied",
        "not one of refuse, accept",
    ),
]
