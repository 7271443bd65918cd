"""What a database consists of, as its catalog says it: for comparing one with another."""

from __future__ import annotations

import asyncpg

Definitions = dict[str, list[tuple[object, ...]]]

COLUMNS = """
    SELECT table_name, column_name, data_type, udt_name, is_nullable, column_default, is_generated
      FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position
"""
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
     WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"
TRIGGERS = """
    SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
"""
TABLES = """
    SELECT relname, relkind, relrowsecurity, reloptions::text, relacl::text, obj_description(oid), relowner
      FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S') ORDER BY 1
"""
OTHER = """
    SELECT 'type', typname, typtype::text FROM pg_type
     WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
    UNION ALL SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'extension', extname, extversion FROM pg_extension ORDER BY 1, 2, 3
"""


async def all_definitions(connection: asyncpg.Connection) -> Definitions:
    """Columns, constraints, indexes, triggers, tables and the rest of the schema public."""
    queries = {"columns": COLUMNS, "constraints": CONSTRAINTS, "indexes": INDEXES, "triggers": TRIGGERS}
    return {
        name: [tuple(row) for row in await connection.fetch(query)]
        for name, query in (queries | {"tables": TABLES, "other": OTHER}).items()
    }
