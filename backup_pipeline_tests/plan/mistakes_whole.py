"""Mistakes in the plan as a whole, its stores and its keys."""

from __future__ import annotations

from backup_pipeline_tests.plan.mistakes import DATASETS, ONE_STORE, Mistake, top

D0 = "datasets[0]"
MISTAKES = [
    Mistake(
        "unknown key at the top", top("timezon: UTC #!"), "timezon", "unknown key", "'timezone'"
    ),
    Mistake("key of another tool", top("tz: UTC #!"), "tz", "unknown key 'tz'", "'timezone'"),
    Mistake(
        "environments misspelt",
        top("enviroments: {dev: {}} #!"),
        "enviroments",
        "unknown key",
        "'environments'",
    ),
    Mistake(
        "a site that is no text",
        "start: 2026-11-22\nstores: {local: {url: /srv/b, site: 7}} #!\n" + DATASETS,
        "stores.local.site",
        "",
    ),
    Mistake("alerts to nobody", top("alerts: {} #!"), "alerts", "nobody to tell", "to: [{env:"),
    Mistake(
        "an alert's URL in the plan",
        top("alerts: {to: ['slack://a/b/c']} #!"),
        "alerts.to[0]",
        "a secret does not belong in the plan",
        "{env: NAME}",
    ),
    Mistake(
        "alerts about something else",
        top("alerts: {to: [{env: URL}], about: [missed_days]} #!"),
        "alerts.about[0]",
        "'missed_days' is not one of",
        "'missed_day'",
    ),
    Mistake("duplicate key", top("late: refuse\nlate: accept #!"), "late", "line 3 already"),
    Mistake(
        "start is missing",
        "stores: {local: /srv/b} #!\n" + DATASETS,
        "start",
        "'start' is missing",
        "start: 2026",
    ),
    Mistake("stores are missing", "start: 2026-11-22 #!\n" + DATASETS, "stores", "is missing"),
    Mistake("datasets are missing", "start: 2026-11-22 #!\nstores: {a: /b}", "datasets", "missing"),
    Mistake("no dataset named", ONE_STORE + "datasets: [] #!", "datasets", "nothing is named"),
    Mistake(
        "start is no day",
        "start: 22.11.2026 #!\nstores: {local: /srv/b}\n" + DATASETS,
        "start",
        "'22.11.2026' is not a day",
        "2026-11-22",
    ),
    Mistake(
        "start not in the calendar",
        "start: 2026-02-30 #!\nstores: {local: /srv/b}\n" + DATASETS,
        "start",
        "not in the calendar",
    ),
    Mistake(
        "start has a time",
        "start: 2026-11-22 02:00:00 #!\nstores: {local: /srv/b}\n" + DATASETS,
        "start",
        "not a day",
    ),
    Mistake(
        "unknown time zone",
        top("timezone: Europe/Berln #!"),
        "timezone",
        "not a known time zone",
        "'Europe/Berlin'",
    ),
    Mistake(
        "time zone is a path", top("timezone: ../../etc/passwd #!"), "timezone", "not a known time"
    ),
    Mistake("encryption unknown", top("encryption: aes256 #!"), "encryption", "not one of", "aes"),
    Mistake("encryption switched off", top("encryption: false #!"), "encryption", "'false' is not"),
    Mistake("automation not a flag", top("automation: sometimes #!"), "automation", "true nor"),
    Mistake("yes is no flag", top("automation: yes #!"), "automation", "true nor", "write true"),
    Mistake("late unknown", top("late: never #!"), "late", "not one of refuse, accept"),
    Mistake(
        "environments without deployment",
        top("environments: {dev: {automation: false}} #!"),
        "environments",
        "nothing picks",
        "deployment:",
    ),
    Mistake(
        "deployment not set",
        top("deployment: {env: NOT_SET_ANYWHERE} #!"),
        "deployment",
        "NOT_SET_ANYWHERE is not there",
        "default",
    ),
    Mistake(
        "environment with an unknown key",
        top("deployment: prod\nenvironments:\n  dev:\n    automaton: false #!"),
        "environments.dev.automaton",
        "unknown key",
        "'automation'",
    ),
    Mistake(
        "an environment that is not picked breaks a rule",
        top("deployment: prod\nenvironments:\n  dev:\n    stores: {more: /srv/more}").replace(
            "}]", "}] #!"
        ),
        f"{D0}.policy",
        "policies.default is missing",
    ),
    Mistake(
        "history change unknown",
        top("accept_history_change: [zone] #!"),
        "accept_history_change[0]",
        "no change 'zone'",
        "timezone",
    ),
    Mistake(
        "kind of store unknown",
        "start: 2026-11-22\nstores:\n  local: ftp://host/x #!\n" + DATASETS,
        "stores.local",
        "unknown kind of store ftp://",
        "supported",
    ),
    Mistake(
        "kind of store of a later version",
        "start: 2026-11-22\nstores:\n  local: gs://bucket/x #!\n" + DATASETS,
        "stores.local",
        "not supported yet",
    ),
    Mistake(
        "two slashes only",
        "start: 2026-11-22\nstores:\n  local: file://srv/x #!\n" + DATASETS,
        "stores.local",
        "no absolute path",
        "file:///srv/x",
    ),
    Mistake(
        "no bucket",
        "start: 2026-11-22\nstores:\n  local: {url: 's3:///x'} #!\n" + DATASETS,
        "stores.local.url",
        "no bucket",
    ),
    Mistake(
        "store without url",
        "start: 2026-11-22\nstores:\n  local: {region: eu-west-1} #!\n" + DATASETS,
        "stores.local.url",
        "'url' is missing",
    ),
    Mistake(
        "store with an unknown key",
        "start: 2026-11-22\nstores:\n  local: {url: s3://b, regin: eu} #!\n" + DATASETS,
        "stores.local.regin",
        "unknown key",
        "'region'",
    ),
    Mistake(
        "store name with a dash",
        "start: 2026-11-22\nstores:\n  my-store: /srv/b #!\n" + DATASETS,
        "stores.my-store",
        "not a name",
        "my_store",
    ),
    Mistake(
        "lock on a directory",
        "start: 2026-11-22\nstores:\n  local:\n    url: /srv/b\n"
        "    lock: {mode: compliance, days: 9} #!\n" + DATASETS,
        "stores.local.lock",
        "only an object store",
    ),
    Mistake(
        "lock without end",
        "start: 2026-11-22\nstores:\n  local:\n    url: s3://b/p\n"
        "    lock: {mode: compliance, days: 0} #!\n" + DATASETS,
        "stores.local.lock.days",
        "below 1",
    ),
    Mistake(
        "key kind of a later version",
        top("keys:\n  main: {age: age1xyz} #!"),
        "keys.main",
        "not supported yet",
    ),
    Mistake(
        "key with two secrets",
        top("keys:\n  main: {passphrase: {env: A}, key_file: {env: B}} #!"),
        "keys.main",
        "either",
    ),
    Mistake(
        "reference misspelt",
        top("keys:\n  main: {passphrase: {evn: A}} #!"),
        "keys.main.passphrase",
        "unknown key 'evn'",
        "'env'",
    ),
    Mistake("scratch far away", top("scratch: s3://bucket/x #!"), "scratch.url", "on this machine"),
    Mistake(
        "size without unit",
        top("scratch: {url: /srv/r, max: 500 G} #!"),
        "scratch.max",
        "no known unit",
        "500 GiB",
    ),
]
