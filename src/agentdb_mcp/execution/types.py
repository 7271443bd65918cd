"""What we need to know of a Postgres type to show its values: its SQL name, and its element if it is an array."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """`element` is the OID of an array's element type, else 0."""

    oid: int
    name: str
    element: int = 0
    delimiter: str = ","


BOOL, BYTEA, INT8, INT2, INT4, OID, JSON, FLOAT4, FLOAT8 = 16, 17, 20, 21, 23, 26, 114, 700, 701
TIMESTAMP, TIMESTAMPTZ, JSONB, VOID = 1114, 1184, 3802, 2278

# Built-in types have fixed OIDs (src/include/catalog/pg_type.dat): (oid, oid of its array, SQL name).
_BUILTIN = (
    (BOOL, 1000, "boolean"),
    (BYTEA, 1001, "bytea"),
    (18, 1002, '"char"'),
    (19, 1003, "name"),
    (INT8, 1016, "bigint"),
    (INT2, 1005, "smallint"),
    (INT4, 1007, "integer"),
    (24, 1008, "regproc"),
    (25, 1009, "text"),
    (OID, 1028, "oid"),
    (JSON, 199, "json"),
    (142, 143, "xml"),
    (600, 1017, "point"),
    (650, 651, "cidr"),
    (FLOAT4, 1021, "real"),
    (FLOAT8, 1022, "double precision"),
    (790, 791, "money"),
    (829, 1040, "macaddr"),
    (869, 1041, "inet"),
    (1042, 1014, "character"),
    (1043, 1015, "character varying"),
    (1082, 1182, "date"),
    (1083, 1183, "time without time zone"),
    (TIMESTAMP, 1115, "timestamp without time zone"),
    (TIMESTAMPTZ, 1185, "timestamp with time zone"),
    (1186, 1187, "interval"),
    (1266, 1270, "time with time zone"),
    (1560, 1561, "bit"),
    (1562, 1563, "bit varying"),
    (1700, 1231, "numeric"),
    (2205, 2210, "regclass"),
    (2249, 2287, "record"),
    (VOID, 0, "void"),
    (2950, 2951, "uuid"),
    (3614, 3643, "tsvector"),
    (3615, 3645, "tsquery"),
    (JSONB, 3807, "jsonb"),
    (3904, 3905, "int4range"),
    (3906, 3907, "numrange"),
    (3908, 3909, "tsrange"),
    (3910, 3911, "tstzrange"),
    (3912, 3913, "daterange"),
    (3926, 3927, "int8range"),
)

BUILTIN_TYPES = {oid: TypeInfo(oid, name) for oid, _, name in _BUILTIN} | {
    array: TypeInfo(array, f"{name}[]", element=oid) for oid, array, name in _BUILTIN if array
}

# At the end of our own reads: in Postgres's statistics of statements they look like the agent's otherwise.
OURS = "\n/* agentdb-mcp */"

# No operator or function here can be shadowed: everything is qualified.
LOOKUP_SQL = f"""
SELECT t.oid, pg_catalog.format_type(t.oid, NULL),
       CASE WHEN t.typcategory OPERATOR(pg_catalog.=) 'A'::"char" THEN t.typelem ELSE 0::pg_catalog.oid END,
       t.typdelim
  FROM pg_catalog.pg_type AS t
 WHERE t.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[]){OURS}
"""
