"""Mistakes in datasets."""

from __future__ import annotations

from backup_pipeline_tests.plan.mistakes import HEAD, ONE_STORE, Mistake, dataset

SLICED = "asset: lake/e\nsource: /lake/day={day}\n"
D0 = "datasets[0]"
MISTAKES = [
    Mistake("dataset without asset", dataset("source: /data/a #!"), D0, "asset is missing"),
    Mistake("dataset without source", dataset("asset: a #!"), f"{D0}.source", "source is missing"),
    Mistake(
        "asset and assets",
        dataset("asset: a #!\nassets: [b]\nsource: /d/{asset}"),
        D0,
        "exclude each other",
    ),
    Mistake(
        "asset key with a space",
        dataset("asset: my asset #!\nsource: /d"),
        f"{D0}.asset",
        "not an asset key",
    ),
    Mistake(
        "dataset twice",
        ONE_STORE
        + "datasets:\n  - {asset: a, source: /d}\n  - {assets: [b, a], source: '/e/{asset}'} #!",
        "datasets[1].assets[1]",
        "stands on line 4 already",
    ),
    Mistake(
        "policy unknown",
        dataset("asset: a\nsource: /d\npolicy: steam #!"),
        f"{D0}.policy",
        "no policy 'steam'",
        "'stream'",
    ),
    Mistake(
        "preset without its stores",
        dataset("asset: a\nsource: /d\npolicy: stream #!\noverride: {tiers: {offsite: false}}"),
        f"{D0}.policy",
        "needs store 'cloud'",
    ),
    Mistake(
        "override of an unknown tier",
        dataset("asset: a\nsource: /d\noverride:\n  tiers:\n    lokal: false #!"),
        f"{D0}.override.tiers.lokal",
        "no tier 'lokal'",
        "'local'",
    ),
    Mistake(
        "override leaves nothing",
        dataset("asset: a\nsource: /d\noverride:\n  tiers: {local: false} #!"),
        f"{D0}.override.tiers",
        "every tier is left out",
    ),
    Mistake(
        "override leaves out what is copied",
        HEAD + "policies: {default: {tiers: [{name: local}, {name: cloud}, {name: offsite, "
        "from: cloud}]}}\ndatasets:\n  - asset: a\n    source: /d\n    override:\n"
        "      tiers:\n        cloud: false #!",
        f"{D0}.override.tiers.cloud",
        "left out here",
    ),
    Mistake(
        "override against the policy's rpo",
        HEAD + "policies: {default: {tiers: [{name: local}], rpo: 26 hours}}\ndatasets:\n"
        "  - asset: a\n    source: /d\n    override:\n      tiers:\n"
        "        local: {every: week} #!",
        f"{D0}.override.tiers.local.every",
        "26 hours cannot be held",
    ),
    Mistake(
        "kind of source unknown",
        dataset("asset: a\nsource: {postgre: {}} #!"),
        f"{D0}.source",
        "unknown kind of source",
        "'postgres'",
    ),
    Mistake(
        "database without its place",
        dataset("asset: a\nsource: {postgres: {schemas: [sales]}} #!"),
        f"{D0}.source",
        "source postgres needs dsn",
    ),
    Mistake(
        "option of a database misspelt",
        dataset("asset: a\nsource: {postgres: {dsn: {env: DSN}, schema: [sales]}} #!"),
        f"{D0}.source",
        "unknown key 'schema' in source postgres",
        "'schemas'",
    ),
    Mistake(
        "globs of a database as one text",
        dataset("asset: a\nsource: {postgres: {dsn: {env: DSN}, exclude: sales.x}} #!"),
        f"{D0}.source",
        "exclude of source postgres is not a list of texts",
    ),
    Mistake(
        "exclude of a database beside its source",
        dataset("asset: a\nsource: {sqlite: /srv/a.db}\nexclude: [x] #!"),
        f"{D0}.exclude",
        "source sqlite has no paths to exclude",
    ),
    Mistake(
        "source of two kinds",
        dataset("asset: a\nsource: {files: /a, objects: s3://b} #!"),
        f"{D0}.source",
        "exactly one kind",
    ),
    Mistake(
        "source that is not read yet",
        dataset("asset: a\nsource: ftp://host/x #!"),
        f"{D0}.source",
        "not read by themselves",
    ),
    Mistake(
        "versions kept since no day",
        dataset("asset: a\nsource: {objects: {url: s3://b, versions_kept_since: May}} #!"),
        f"{D0}.source",
        "'May' is no day",
    ),
    Mistake(
        "gs url for azure",
        dataset("asset: a\nsource: {azure: gs://bucket/x} #!"),
        f"{D0}.source",
        "source azure cannot read 'gs://bucket/x'",
        "az://container/prefix",
    ),
    Mistake(
        "account key in the plan",
        dataset("asset: a\nsource:\n  azure:\n    url: az://c/x\n    account_key: abc= #!"),
        f"{D0}.source.azure.account_key",
        "a secret does not belong in the plan",
    ),
    Mistake(
        "password in an sftp url",
        dataset("asset: a\nsource: {sftp: 'sftp://me:pass@host/x'} #!"),
        f"{D0}.source",
        "holds no credentials",
    ),
    Mistake(
        "hours in a day's path",
        dataset("asset: a\nholds: slice\nsource: 's3://lake/{day:%Y/%m/%d/%H}' #!"),
        f"{D0}.source",
        "%H is no part of a day",
    ),
    Mistake(
        "a day's path that two days share",
        dataset("asset: a\nholds: slice\nsource: 's3://lake/{day:%Y}/{day:%d}' #!"),
        f"{D0}.source",
        "does not tell one day from another",
    ),
    Mistake(
        "a day's path of unknown parts",
        dataset("asset: a\nholds: slice\nsource: '/lake/{day:%Y-%q}' #!"),
        f"{D0}.source",
        "'%q' is not known",
    ),
    Mistake(
        "slices of a url without a day",
        dataset("asset: a\nsource: gs://lake/events\nholds: slice #!"),
        f"{D0}.holds",
        "cannot tell one day's slice",
    ),
    Mistake(
        "a whole of a url with a day",
        dataset("asset: a\nsource: {gcs: 'gs://lake/day={day}'} #!"),
        f"{D0}.source",
        "one slice a day",
        "holds: slice",
    ),
    Mistake(
        "slices_checked of a whole",
        dataset("asset: a\nsource: /d\nslices_checked: 3 days #!"),
        f"{D0}.slices_checked",
        "goes with holds: slice",
    ),
    Mistake(
        "objects without url",
        dataset("asset: a\nsource: {objects: /data} #!"),
        f"{D0}.source",
        "needs an s3:// URL",
    ),
    Mistake(
        "delta without a place",
        dataset("asset: a\nsource: {delta: {region: r}} #!"),
        f"{D0}.source",
        "needs path or url",
    ),
    Mistake(
        "delta with a URL as its path",
        dataset("asset: a\nsource: {delta: {path: s3://b/t}} #!"),
        f"{D0}.source",
        "path of source delta is none",
        "url: s3://b/t",
    ),
    Mistake(
        "iceberg without a table",
        dataset("asset: a\nsource: {iceberg: {catalog: c}} #!"),
        f"{D0}.source",
        "needs table or metadata",
    ),
    Mistake(
        "iceberg with a catalogue for a metadata file",
        dataset("asset: a\nsource: {iceberg: {metadata: /m.json, catalog: c}} #!"),
        f"{D0}.source",
        "catalog of source iceberg goes with table",
    ),
    Mistake(
        "iceberg with a secret",
        dataset(
            "asset: a\nsource:\n  iceberg:\n    table: s.o\n    catalog:\n"
            "      s3.secret-access-key: abc #!"
        ),
        f"{D0}.source.iceberg.catalog.s3.secret-access-key",
        "a secret does not belong in the plan",
    ),
    Mistake(
        "files with an unknown key",
        dataset("asset: a\nsource: {files: {pth: /data}} #!"),
        f"{D0}.source",
        "unknown key 'pth'",
        "'path'",
    ),
    Mistake(
        "unknown placeholder",
        dataset("asset: a\nsource: /data/{name} #!"),
        f"{D0}.source",
        "unknown placeholder '{name}'",
    ),
    Mistake(
        "one source for two assets",
        dataset("assets: [a, b]\nsource: /data #!"),
        f"{D0}.source",
        "several assets",
        "{asset}",
    ),
    Mistake(
        "source holds the store",
        dataset("asset: a\nsource: /srv #!"),
        f"{D0}.source",
        "holds store 'local'",
    ),
    Mistake(
        "day paths without day",
        dataset("asset: a\nholds: slice\nsource: {day_paths: /data} #!"),
        f"{D0}.source",
        "needs {day}",
    ),
    Mistake(
        "day paths held whole",
        dataset("asset: a\nsource: '/data/{day}' #!"),
        f"{D0}.source",
        "one slice a day",
        "holds: slice",
    ),
    Mistake(
        "days in plain files",
        dataset("asset: a\nsource: {files: '/data/{day}'} #!"),
        f"{D0}.source",
        "has no days",
    ),
    Mistake(
        "slices of plain files",
        dataset("asset: a\nsource: /data\nholds: slice #!"),
        f"{D0}.holds",
        "cannot tell one day",
    ),
    Mistake(
        "slices kept of a whole",
        dataset("asset: a\nsource: /data\nkeep_slices: forever #!"),
        f"{D0}.keep_slices",
        "goes with holds: slice",
    ),
    Mistake(
        "slices by the week",
        dataset(SLICED + "holds: slice #!\noverride: {tiers: {local: {every: week}}}"),
        f"{D0}.holds",
        "most slices would miss",
    ),
    Mistake(
        "change of a slice",
        dataset(SLICED + "holds: slice\noverride:\n  on_change: {at_most_every: 1 hour} #!"),
        f"{D0}.override.on_change",
        "taken after its day closed",
    ),
    Mistake(
        "links followed",
        dataset("asset: a\nsource: /data\nsymlinks: follow #!"),
        f"{D0}.symlinks",
        "never followed",
    ),
    Mistake(
        "exclude not a list",
        dataset("asset: a\nsource: /data\nexclude: '*.tmp' #!"),
        f"{D0}.exclude",
        "not a list",
    ),
    Mistake(
        "solid not a flag",
        dataset("asset: a\nsource: /data\nsolid: 0 #!"),
        f"{D0}.solid",
        "true nor false",
    ),
]
