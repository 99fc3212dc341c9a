"""The asset graph as far as Dagster shows it here, and what of it is protected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from backup_pipeline.metadata import key
from backup_pipeline.posture.coverage import Coverage, cover
from backup_pipeline.translator import TierAsset, Upstream

__all__ = ["EXEMPT_TAG", "look_at_graph"]

EXEMPT_TAG = key("exempt")
"""A tag on an asset of yours that needs no backup; its value says why."""


def look_at_graph(
    assets: Iterable[TierAsset],
    own: dg.AssetKey,
    upstream: Upstream,
    context: Any,
    at: datetime,
) -> Coverage:
    """Which assets no policy protects.

    Three things show the graph: the definitions that the plan was given as ``upstream``, those of
    the code location that runs it, and the event log, which knows the assets of all code locations
    that were ever materialized, but not what they are made from.

    Args:
        assets: The backups, which are left out.
        own: The posture's own asset, likewise.
        upstream: Definitions of the datasets' own assets.
        context: The run's; gives the instance, and the code location where it knows one.
        at: The present (UTC).
    """
    assets = list(assets)
    backups = {asset.asset_key for asset in assets} | {own}
    specs = list(_specs(upstream)) + list(_specs(_location(context)))
    parents: dict[str, set[str]] = {}
    exempt: dict[str, str] = {}
    for spec in specs:
        if spec.key in backups:
            continue
        name = spec.key.to_user_string()
        above = parents.setdefault(name, set())
        above |= {dep.asset_key.to_user_string() for dep in spec.deps} - {name}
        if EXEMPT_TAG in spec.tags:
            exempt[name] = spec.tags[EXEMPT_TAG] or "without a reason"
    # A dataset that nobody defines here is known as what its backups are made from.
    for asset in assets:
        if asset.tier.reads_source:
            parents.setdefault(asset.dataset.key, set())
    logged = {one.to_user_string() for one in context.instance.get_asset_keys()}
    backed_up = {one.to_user_string() for one in backups}
    return cover(
        {name: above - backed_up for name, above in parents.items()},
        {asset.dataset.key for asset in assets},
        exempt=exempt,
        without_lineage=logged - backed_up,
        at=at,
    )


def _location(context: Any) -> Iterable[dg.AssetsDefinition]:
    """Definitions of the code location; none where the run was started without one, as tests do."""
    try:
        found: Mapping[dg.AssetKey, dg.AssetsDefinition] = context.repository_def.assets_defs_by_key
    except Exception:
        return ()
    return {id(one): one for one in found.values()}.values()


def _specs(assets: Upstream) -> Iterable[dg.AssetSpec]:
    for asset in assets:
        yield from [asset] if isinstance(asset, dg.AssetSpec) else asset.specs
