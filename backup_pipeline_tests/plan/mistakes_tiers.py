"""Mistakes in tiers and policies."""

from __future__ import annotations

from backup_pipeline_tests.plan.mistakes import DATASETS, HEAD, Mistake, policy, tier

T0, T1 = "policies.default.tiers[0]", "policies.default.tiers[1]"
D0 = "datasets[0]"
MISTAKES = [
    Mistake(
        "several stores, no policy",
        HEAD + "datasets: [{asset: a, source: /d}] #!",
        f"{D0}.policy",
        "several stores",
        "training-data",
    ),
    Mistake(
        "policy without tiers",
        policy("late: refuse #!")
        .replace("default:\n", "default: #!\n")
        .replace("refuse #!", "refuse"),
        "policies.default.tiers",
        "'tiers' is missing",
    ),
    Mistake("no tier", policy("tiers: [] #!"), "policies.default.tiers", "empty"),
    Mistake(
        "tier without name",
        policy("tiers:\n  - {every: day} #!"),
        f"{T0}.name",
        "'name' is missing",
    ),
    Mistake("cadence misspelt", tier("every: dya"), f"{T0}.every", "'dya' is not one of", "'day'"),
    Mistake("cadence as adverb", tier("every: daily"), f"{T0}.every", "'daily'", "'day'"),
    Mistake("cadence as cron", tier('every: "0 2 * * *"'), f"{T0}.every", "not one of hour, day"),
    Mistake(
        "cadence under another name",
        tier("schedule: day"),
        f"{T0}.schedule",
        "unknown key",
        "'every'",
    ),
    Mistake("time of day beyond the day", tier('at: "24:00"'), f"{T0}.at", "'24:00' is not a time"),
    Mistake("time of day in words", tier("at: 2am"), f"{T0}.at", "'2am' is not a time", '"02:00"'),
    Mistake(
        "hourly tier with an hour",
        tier('every: hour, at: "03:15"'),
        f"{T0}.at",
        "only the minute",
        ":15",
    ),
    Mistake(
        "weekday misspelt", tier("every: week, weekday: sun"), f"{T0}.weekday", "'sun'", "'sunday'"
    ),
    Mistake("weekday of a daily tier", tier("weekday: sunday"), f"{T0}.weekday", "every: week"),
    Mistake(
        "day of month beyond 28",
        tier("every: month, kind: full, day_of_month: 31"),
        f"{T0}.day_of_month",
        "above 28",
    ),
    Mistake(
        "day of month of a weekly tier",
        tier("every: week, day_of_month: 3"),
        f"{T0}.day_of_month",
        "every: month",
    ),
    Mistake(
        "day of month with weekday",
        tier("every: month, kind: full, day_of_month: 3, weekday: sunday"),
        f"{T0}.day_of_month",
        "together with weekday",
    ),
    Mistake("kind misspelt", tier("kind: incremetal"), f"{T0}.kind", "not one of", "'incremental'"),
    Mistake(
        "monthly incremental without full",
        tier("every: month"),
        f"{T0}.full_every",
        "every chain must end",
        "kind: full",
    ),
    Mistake(
        "full with full_every",
        tier("kind: full, full_every: 4 weeks"),
        f"{T0}.full_every",
        "is a full",
    ),
    Mistake(
        "chain of one",
        tier("every: week, full_every: 7 days"),
        f"{T0}.full_every",
        "all would be full",
    ),
    Mistake(
        "chain shorter than a day",
        tier("every: hour, full_every: 6 hours"),
        f"{T0}.full_every",
        "less than a day",
    ),
    Mistake(
        "duration without unit", tier("full_every: 28"), f"{T0}.full_every", "no unit", "28 days"
    ),
    Mistake(
        "duration with a wrong unit",
        tier("full_every: 4 weks"),
        f"{T0}.full_every",
        "'weks'",
        "'week'",
    ),
    Mistake("keeps nothing", tier("keep: {daily: 0}"), f"{T0}.keep", "keeps nothing"),
    Mistake(
        "keep misspelt", tier("keep: {dayly: 7}"), f"{T0}.keep.dayly", "unknown key", "'daily'"
    ),
    Mistake("keep negative", tier("keep: {daily: -1}"), f"{T0}.keep.daily", "below 0"),
    Mistake(
        "store not defined",
        tier("store: locl"),
        f"{T0}.store",
        "'locl', which is not defined",
        "'local'",
    ),
    Mistake("first tier copies", tier("from: cloud"), f"{T0}.from", "first tier reads the source"),
    Mistake(
        "copies an unknown tier",
        tier("every: day", "from: locale"),
        f"{T1}.from",
        "no tier 'locale'",
        "'local'",
    ),
    Mistake(
        "copies itself", tier("every: day", "from: cloud"), f"{T1}.from", "circle: cloud from cloud"
    ),
    Mistake(
        "tiers copy each other",
        policy(
            "tiers:\n  - {name: local}\n  - {name: cloud, from: offsite} #!\n"
            "  - {name: offsite, from: cloud}"
        ),
        f"{T1}.from",
        "circle: cloud from offsite from cloud",
        "copy 'local'",
    ),
    Mistake(
        "days that need not meet",
        policy(
            "tiers:\n  - {name: local}\n  - {name: cloud, every: week}\n"
            "  - {name: offsite, every: month, kind: full, from: cloud} #!"
        ),
        "policies.default.tiers[2].from",
        "has only sundays",
        "if_missed: nearest",
    ),
    Mistake(
        "copies before the day closed",
        tier("every: day", 'at: "00:10"'),
        f"{T1}.at",
        "closes at 00:30",
    ),
    Mistake("copies every hour", tier("every: day", "every: hour"), f"{T1}.every", "once a day"),
    Mistake(
        "two tiers in one store",
        tier("every: day", "store: local"),
        f"{T1}.store",
        "'local' and 'cloud' of one dataset",
    ),
    Mistake(
        "two stores at one place",
        "start: 2026-11-22\nstores: {local: /srv/b, cloud: 'file:///srv/b/'}\npolicies:\n"
        "  default:\n    tiers:\n      - name: local\n      - name: cloud #!\n" + DATASETS,
        f"{T1}.store",
        "one place, which stores 'local' and 'cloud' both name",
    ),
    Mistake(
        "two tiers of one name",
        policy("tiers:\n  - {name: local}\n  - {name: local} #!"),
        f"{T1}.name",
        "two tiers 'local'",
    ),
    Mistake(
        "a tier called source",
        policy("tiers:\n  - {name: source, store: local} #!"),
        f"{T0}.name",
        "cannot name a tier",
    ),
    Mistake(
        "lock of a local tier",
        tier("lock: {mode: governance, days: 3}"),
        f"{T0}.lock",
        "cannot lock",
    ),
    Mistake(
        "on_change with weeks",
        policy("tiers: [{name: local, every: week}]\non_change: {at_most_every: 1 hour} #!"),
        "policies.default.on_change",
        "runs every week",
    ),
    Mistake(
        "rpo for an unknown tier",
        policy("tiers: [{name: local}]\nrpo: {lokal: 26 hours} #!"),
        "policies.default.rpo.lokal",
        "no tier 'lokal'",
        "'local'",
    ),
    Mistake(
        "rpo that cannot be held",
        policy("tiers: [{name: local}]\nrpo: 5 hours #!"),
        "policies.default.rpo",
        "cannot be held",
    ),
    Mistake(
        "parity of nothing",
        policy("tiers: [{name: local, parity: 0%}] #!"),
        "policies.default.tiers[0].parity",
        "not between",
    ),
    Mistake(
        "parity beyond half",
        policy("tiers: [{name: local, parity: 60%}] #!"),
        "policies.default.tiers[0].parity",
        "of no use",
        "between 1% and 50%",
    ),
    Mistake(
        "sample beyond all",
        policy("tiers: [{name: local}]\ndrill: {sample: 150%} #!"),
        "policies.default.drill.sample",
        "not between",
    ),
    Mistake(
        "sample without per cent",
        policy("tiers: [{name: local}]\ndrill: {sample: 5} #!"),
        "policies.default.drill.sample",
        "5 is not a share",
        "5%",
    ),
    Mistake(
        "anomaly unknown",
        policy("tiers: [{name: local}]\nanomaly: {delete: 5%} #!"),
        "policies.default.anomaly.delete",
        "unknown key",
        "'deleted'",
    ),
    Mistake(
        "expire too seldom",
        policy("tiers: [{name: local}]\nexpire: {every: month} #!"),
        "policies.default.expire.every",
        "not one of day, week",
    ),
    Mistake(
        "prune too often",
        policy("tiers: [{name: local}]\nprune: {every: hour} #!"),
        "policies.default.prune.every",
        "not one of day, week, month",
    ),
    Mistake(
        "tag that Dagster refuses",
        policy("tiers: [{name: local}]\nrun: {tags: {team: a/b}} #!"),
        "policies.default.run.tags.team",
        "'a/b' takes letters",
    ),
    Mistake(
        "overlap unknown",
        policy("tiers: [{name: local}]\nrun: {on_overlap: wait} #!"),
        "policies.default.run.on_overlap",
        "not one of skip, queue",
    ),
]
