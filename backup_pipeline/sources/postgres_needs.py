"""What a part of a PostgreSQL database needs from the rest of it, to be loaded on its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backup_pipeline.engine.errors import SourceError

__all__ = ["Extension", "Need", "extensions_for", "read_extensions", "read_needs", "refuse_unmet"]

MOST_NAMED: Final = 10

_STANDING: Final = {
    "pg_class": "relnamespace",
    "pg_type": "typnamespace",
    "pg_proc": "pronamespace",
    "pg_operator": "oprnamespace",
    "pg_opclass": "opcnamespace",
    "pg_opfamily": "opfnamespace",
    "pg_collation": "collnamespace",
    "pg_conversion": "connamespace",
    "pg_statistic_ext": "stxnamespace",
    "pg_ts_config": "cfgnamespace",
    "pg_ts_dict": "dictnamespace",
    "pg_ts_parser": "prsnamespace",
    "pg_ts_template": "tmplnamespace",
    "pg_namespace": "oid",
}
"""Where the catalogue has what stands in a schema, and the column that says in which."""

_STANDING_ROWS: Final = " UNION ALL ".join(
    f"SELECT '{one}'::regclass, oid, {column} FROM {one}" for one, column in _STANDING.items()
)

_PARTS: Final = """
  SELECT 'pg_attrdef'::regclass, oid, 'pg_class'::regclass, adrelid FROM pg_attrdef
  UNION ALL SELECT 'pg_rewrite'::regclass, oid, 'pg_class'::regclass, ev_class FROM pg_rewrite
  UNION ALL SELECT 'pg_policy'::regclass, oid, 'pg_class'::regclass, polrelid FROM pg_policy
  UNION ALL SELECT 'pg_trigger'::regclass, oid, 'pg_class'::regclass, tgrelid FROM pg_trigger
    WHERE NOT tgisinternal
  UNION ALL SELECT 'pg_constraint'::regclass, oid, 'pg_class'::regclass, conrelid
    FROM pg_constraint WHERE conrelid > 0
  UNION ALL SELECT 'pg_constraint'::regclass, oid, 'pg_type'::regclass, contypid
    FROM pg_constraint WHERE contypid > 0
  UNION ALL SELECT 'pg_class'::regclass, indexrelid, 'pg_class'::regclass, indrelid FROM pg_index
  UNION ALL SELECT 'pg_amop'::regclass, oid, 'pg_opfamily'::regclass, amopfamily FROM pg_amop
  UNION ALL SELECT 'pg_amproc'::regclass, oid, 'pg_opfamily'::regclass, amprocfamily FROM pg_amproc
  -- A composite type and its columns; the type of a table's row; arrays of all of these.
  UNION ALL SELECT 'pg_class'::regclass, oid, 'pg_type'::regclass, reltype FROM pg_class
    WHERE relkind = 'c'
  UNION ALL SELECT 'pg_type'::regclass, reltype, 'pg_class'::regclass, oid FROM pg_class
    WHERE reltype > 0 AND relkind <> 'c'
  UNION ALL SELECT 'pg_type'::regclass, t.typarray,
      CASE WHEN c.oid IS NULL THEN 'pg_type'::regclass ELSE 'pg_class'::regclass END,
      coalesce(c.oid, t.oid)
    FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid AND c.relkind <> 'c'
    WHERE t.typarray > 0
"""
"""What comes and goes with something else: its catalogue and number, and that of the other."""

FIRST_OF_USERS: Final = 16384
"""What has a smaller number is the server's own, and is in every database."""

_NEEDS: Final = f"""
WITH standing(class, id, schema) AS ({_STANDING_ROWS}
), part(class, id, of_class, of_id) AS ({_PARTS}
), member(class, id, extension) AS (
  SELECT d.classid, d.objid, e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
  WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
  UNION ALL SELECT 'pg_extension'::regclass, oid, extname FROM pg_extension
), left_out(id, of_table) AS (
  SELECT id, id FROM unnest(%(left_out)s::oid[]) AS id
  UNION ALL SELECT d.objid, d.refobjid FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.deptype IN ('a', 'i') AND d.refobjid = ANY (%(left_out)s::oid[])
), edge AS (
  SELECT DISTINCT coalesce(p.of_class, d.classid) AS class, coalesce(p.of_id, d.objid) AS id,
    coalesce(q.of_class, d.refclassid) AS on_class, coalesce(q.of_id, d.refobjid) AS on_id
  FROM pg_depend d
  LEFT JOIN part p ON p.class = d.classid AND p.id = d.objid
  LEFT JOIN part q ON q.class = d.refclassid AND q.id = d.refobjid
  WHERE d.objid >= {FIRST_OF_USERS} AND d.refobjid >= {FIRST_OF_USERS} AND d.deptype <> 'e'
    AND d.classid NOT IN ('pg_extension'::regclass, 'pg_publication_rel'::regclass)
    -- Those of foreign keys stand at both tables, and are made with the constraint.
    AND NOT (d.classid = 'pg_trigger'::regclass AND p.id IS NULL)
    -- A sequence that a column owns can do without the column.
    AND NOT (d.classid = 'pg_class'::regclass AND d.refobjsubid > 0
      AND EXISTS (SELECT FROM pg_sequence s WHERE s.seqrelid = d.objid))
)
SELECT concat_ws(' ', a.type, a.identity), x.nspname, concat_ws(' ', b.type, b.identity),
  y.nspname, n.extension, o.of_table
FROM edge
LEFT JOIN standing s ON s.class = edge.class AND s.id = edge.id
LEFT JOIN standing t ON t.class = edge.on_class AND t.id = edge.on_id
LEFT JOIN pg_namespace x ON x.oid = s.schema
LEFT JOIN pg_namespace y ON y.oid = t.schema
LEFT JOIN member m ON m.class = edge.class AND m.id = edge.id
LEFT JOIN member n ON n.class = edge.on_class AND n.id = edge.on_id
LEFT JOIN left_out l ON edge.class = 'pg_class'::regclass AND l.id = edge.id
LEFT JOIN left_out o ON edge.on_class = 'pg_class'::regclass AND o.id = edge.on_id
CROSS JOIN LATERAL pg_identify_object(edge.class, edge.id, 0) a
CROSS JOIN LATERAL pg_identify_object(edge.on_class, edge.on_id, 0) b
WHERE m.id IS NULL AND l.id IS NULL AND coalesce(x.nspname, '') !~ '^pg_'
  AND (s.schema IS DISTINCT FROM t.schema OR n.id IS NOT NULL OR o.id IS NOT NULL)
ORDER BY 1, 3
"""

_EXTENSIONS: Final = f"""
SELECT e.extname, n.nspname,
  ARRAY(SELECT DISTINCT s.nspname::text FROM pg_depend m JOIN pg_depend i ON i.classid = m.classid
      AND i.objid = m.objid AND i.refclassid = 'pg_namespace'::regclass
    JOIN pg_namespace s ON s.oid = i.refobjid
    WHERE m.refclassid = 'pg_extension'::regclass AND m.refobjid = e.oid AND m.deptype = 'e'),
  ARRAY(SELECT r.extname::text FROM pg_depend d JOIN pg_extension r ON r.oid = d.refobjid
    WHERE d.classid = 'pg_extension'::regclass AND d.objid = e.oid
      AND d.refclassid = 'pg_extension'::regclass)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.oid >= {FIRST_OF_USERS} ORDER BY e.extname COLLATE "C"
"""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that cannot be made without another, which may not come with it.

    Attributes:
        dependent: What needs: its kind and its name, as SQL takes it.
        schema: The schema in which it stands; None for what stands in none.
        needed: What it needs, likewise.
        of_schema: The schema in which that stands.
        extension: The extension that brings it.
        left_out: Number of the table without which it is left out, where that is so.
    """

    dependent: str
    schema: str | None
    needed: str
    of_schema: str | None
    extension: str | None
    left_out: int | None


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension.

    Attributes:
        name: Its name.
        schema: The schema that it is made in.
        fills: The schemas that its members stand in.
        requires: The extensions that it needs.
    """

    name: str
    schema: str
    fills: tuple[str, ...]
    requires: tuple[str, ...]


def read_needs(connection: Any, left_out: Sequence[int]) -> list[Need]:
    """Every need across schemas, of an extension, of a table that is left out or what it owns.

    Args:
        connection: A psycopg connection; ``search_path`` has to be empty.
        left_out: Numbers of the tables whose definitions are left out.
    """
    rows = connection.execute(_NEEDS, {"left_out": list(left_out)}).fetchall()
    return [Need(*row) for row in rows]


def read_extensions(connection: Any) -> list[Extension]:
    """Every extension besides those that each database has, in order of name."""
    rows = connection.execute(_EXTENSIONS).fetchall()
    return [Extension(row[0], row[1], tuple(row[2]), tuple(row[3])) for row in rows]


def refuse_unmet(
    place: str, needs: Sequence[Need], schemas: Collection[str] | None, grants: Mapping[int, str]
) -> None:
    """Refuse a choice that could not be loaded without what is not chosen.

    Args:
        place: The database, for the message.
        needs: Those of the database.
        schemas: The chosen schemas; None for all, and for what stands in no schema.
        grants: By the number of a table that is left out, the GRANT that keeps its definition.

    Raises:
        SourceError: A need is met neither by the choice nor by an extension.
    """
    lost = _unmet(needs, schemas)
    if not lost:
        return
    named = [f"{one.dependent} needs {one.needed}" for one in lost[:MOST_NAMED]]
    more = f"; and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
    hints: list[str] = []
    if schemas is not None and (others := _schemas_lacking(needs, schemas)):
        dependents = ", ".join(sorted({str(one.schema) for one in lost}))
        hints.append(
            f"choose {', '.join(others)} in `schemas` too (`exclude` leaves out rows), or leave"
            f" out {dependents}"
        )
    if helps := {grants[one.left_out]: None for one in lost if one.left_out is not None}:
        grant = "; ".join([*helps][:MOST_NAMED])
        hints.append(f"{grant}: what is excluded stays without rows, but is defined")
    if alone := {one.needed: None for one in lost if one.of_schema is None}:
        hints.append(f"only a backup without `schemas` has {', '.join([*alone][:MOST_NAMED])}")
    raise SourceError(
        f"{place}: what is chosen could not be loaded without what is not:"
        f" {'; '.join(named)}{more}",
        "; ".join(hints),
    )


def _unmet(needs: Iterable[Need], schemas: Collection[str] | None) -> list[Need]:
    def met(one: Need) -> bool:
        chosen = schemas is None or one.of_schema in schemas
        return one.extension is not None or (chosen and one.left_out is None)

    return [one for one in needs if _is_chosen(one, schemas) and not met(one)]


def _schemas_lacking(needs: Sequence[Need], schemas: Collection[str]) -> list[str]:
    """The schemas to choose besides, so that what they need is there as well."""
    chosen = set(schemas)
    while more := {one.of_schema for one in _unmet(needs, chosen) if one.of_schema} - chosen:
        chosen |= more
    return sorted(chosen - set(schemas))


def extensions_for(
    extensions: Sequence[Extension], needs: Iterable[Need], schemas: Collection[str]
) -> list[Extension]:
    """The extensions that come with chosen schemas: that stand in them, and that they need.

    Args:
        extensions: Those of the database.
        needs: Those of the database.
        schemas: The chosen schemas.
    """
    wanted = {one.extension for one in needs if _is_chosen(one, schemas)}
    wanted |= {one.name for one in extensions if not set(schemas).isdisjoint(one.fills)}
    while (
        more := {name for one in extensions if one.name in wanted for name in one.requires} - wanted
    ):
        wanted |= more
    return [one for one in extensions if one.name in wanted]


def _is_chosen(need: Need, schemas: Collection[str] | None) -> bool:
    return schemas is None or need.schema in schemas
