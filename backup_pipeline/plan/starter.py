"""A commented plan to begin with."""

from __future__ import annotations

__all__ = ["starter_plan"]

_STARTER = """\
# What is backed up, where to, how often. Check it with: backup-pipeline validate --plan FILE
#
# The first day that has a backup.
start: 2026-11-22

# Days are counted, and times of day are read, in this zone.
timezone: UTC

# Where backups are kept: a directory or s3://bucket/prefix. Later add a second place, best on
# another machine and under other credentials:
#   cloud: {url: "s3://my-backups/prod", region: eu-west-1}
stores:
  local: file:///srv/backups

# Backups are encrypted. The passphrase is read from this environment variable and never stands
# here. Keep a copy of it elsewhere: without it nothing can be restored.
keys:
  main: {passphrase: {env: BACKUP_PASSPHRASE}}

# The rules. A tier is one destination; the first reads the dataset, later ones copy closed days.
policies:
  default:
    tiers:
      - name: local              # uses the store of the same name
        every: day               # hour, day, week or month
        at: "02:00"
        kind: incremental        # full, differential or incremental
        full_every: 4 weeks      # each chain of incrementals ends with a new full
        keep: {daily: 7, weekly: 4, monthly: 6}
      # - {name: cloud, every: week, weekday: sunday, full_every: 12 weeks, keep: {weekly: 12}}
    on_change: {at_most_every: 1 hour}   # and whenever the dataset changes; false to switch off
    rpo: 26 hours                        # the newest good backup may be this old
    drill: {every: month, sample: 1%}    # restore a sample and compare it
    # late: accept                       # store present state for a missed day, marked as late

# What is protected: keys of Dagster assets, and where their bytes are. {asset} is the key.
datasets:
  - asset: vision/train_images
    source: /data/images
  # - {assets: [vision/a, vision/b], source: "/data/{asset}"}
  # - {asset: lake/events, source: "s3://lake/events/day={day}/", holds: slice}
"""


def starter_plan() -> str:
    """Returns the YAML of a small plan with every part explained; it loads as it is."""
    return _STARTER
