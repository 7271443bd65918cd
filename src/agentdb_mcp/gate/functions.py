"""Names that stand before a bracket: harmless builtins, keywords, and functions that do more than read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentdb_mcp.gate.text import Statement
from agentdb_mcp.gate.tokens import Token
from agentdb_mcp.models import Kind

# The immutable and stable functions of pg_catalog, and the volatile ones that change nothing. A name is here only
# if every function of that name in Postgres 18 is one of these.
_READING = """
    abs acos acosd acosh age any_value area array_agg array_append array_dims array_fill array_length
    array_lower array_ndims array_position array_positions array_prepend array_remove array_replace
    array_reverse array_sample array_shuffle array_sort array_to_json array_to_string array_to_tsvector
    array_upper ascii asin asind asinh atan atan2 atan2d atand atanh avg bit bit_and bit_count bit_length
    bit_or bit_xor bool bool_and bool_or bound_box box bpchar bytea cardinality casefold cbrt ceil ceiling
    center char char_length character_length chr cidr circle clock_timestamp col_description concat
    concat_ws convert convert_from convert_to corr cos cosd cosh cot cotd count covar_pop covar_samp crc32
    crc32c cume_dist current_database current_query current_schema current_schemas current_setting currval
    date date_add date_bin date_part date_subtract date_trunc datemultirange daterange decode degrees
    dense_rank diameter div encode enum_first enum_last enum_range erf erfc every exp extract factorial
    family first_value float4 float8 floor format format_type gamma gcd gen_random_uuid generate_series
    generate_subscripts get_bit get_byte get_current_ts_config height host hostmask icu_unicode_version
    inet_client_addr inet_client_port inet_merge inet_same_family inet_server_addr inet_server_port
    initcap int2 int4 int4multirange int4range int8 int8multirange int8range interval is_normalized
    isclosed isempty isfinite ishorizontal isopen isparallel isperp isvertical justify_days justify_hours
    justify_interval lag last_value lastval lcm lead left length lgamma like line ln lo_get log log10
    lower lower_inc lower_inf lpad lseg ltrim macaddr macaddr8 make_date make_interval make_time
    make_timestamp make_timestamptz masklen max md5 min min_scale mod mode money multirange name netmask
    network normalize notlike now npoints nth_value ntile num_nonnulls num_nulls numeric nummultirange
    numrange obj_description octet_length oidvectortypes overlaps overlay parse_ident path percent_rank
    percentile_cont percentile_disc phraseto_tsquery pi plainto_tsquery point polygon position pow power
    quote_ident quote_literal quote_nullable radians radius random random_normal range_agg
    range_intersect_agg range_merge rank regclass regexp_count regexp_instr regexp_like regexp_match
    regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr regr_avgx
    regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace
    reverse right round row_number row_security_active row_to_json rpad rtrim scale set_bit set_byte
    set_masklen setweight sha224 sha256 sha384 sha512 shobj_description sign sin sind sinh split_part sqrt
    statement_timestamp stddev stddev_pop stddev_samp string_agg string_to_array string_to_table strip
    strpos substr substring sum tan tand tanh text time timeofday timestamp timestamptz timetz timezone
    to_ascii to_bin to_char to_date to_hex to_json to_jsonb to_number to_oct to_timestamp to_tsquery
    to_tsvector transaction_timestamp translate trim_array trim_scale trunc ts_debug ts_delete ts_filter
    ts_headline ts_lexize ts_parse ts_rank ts_rank_cd ts_token_type tsmultirange tsrange tstzmultirange
    tstzrange tsvector_to_array txid_current_if_assigned txid_current_snapshot txid_status
    txid_visible_in_snapshot unicode_assigned unicode_version unistr unnest upper upper_inc upper_inf
    uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7 var_pop var_samp varbit varchar variance
    version websearch_to_tsquery width width_bucket xml xml_is_well_formed xml_is_well_formed_content
    xml_is_well_formed_document xmlagg xmlcomment xmlexists xmltext xpath xpath_exists
"""
_READING_JSON = """
    json_agg json_agg_strict json_array_elements json_array_elements_text json_array_length
    json_build_array json_build_object json_each json_each_text json_extract_path json_extract_path_text
    json_object json_object_agg json_object_agg_strict json_object_agg_unique
    json_object_agg_unique_strict json_object_keys json_populate_record json_populate_recordset
    json_strip_nulls json_to_record json_to_recordset json_to_tsvector json_typeof jsonb_agg
    jsonb_agg_strict jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
    jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert
    jsonb_object jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique
    jsonb_object_agg_unique_strict jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz
    jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array jsonb_path_query_array_tz
    jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record
    jsonb_populate_record_valid jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax
    jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof
"""
_READING_CATALOG = """
    has_any_column_privilege has_column_privilege has_database_privilege
    has_foreign_data_wrapper_privilege has_function_privilege has_language_privilege
    has_parameter_privilege has_schema_privilege has_sequence_privilege has_server_privilege
    has_table_privilege has_tablespace_privilege has_type_privilege pg_available_extensions pg_backend_pid
    pg_basetype pg_blocking_pids pg_char_to_encoding pg_client_encoding pg_collation_for
    pg_collation_is_visible pg_column_compression pg_column_is_updatable pg_column_size
    pg_current_snapshot pg_current_xact_id_if_assigned pg_database_size pg_describe_object
    pg_encoding_max_length pg_encoding_to_char pg_extension_update_paths pg_function_is_visible pg_get_acl
    pg_get_constraintdef pg_get_expr pg_get_function_arg_default pg_get_function_arguments
    pg_get_function_identity_arguments pg_get_function_result pg_get_function_sqlbody pg_get_functiondef
    pg_get_indexdef pg_get_keywords pg_get_object_address pg_get_partition_constraintdef pg_get_partkeydef
    pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef pg_get_statisticsobjdef_columns
    pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid pg_get_viewdef pg_has_role
    pg_identify_object pg_identify_object_as_address pg_index_has_property pg_indexam_has_property
    pg_indexes_size pg_input_error_info pg_input_is_valid pg_is_in_recovery pg_is_other_temp_schema pg_lsn
    pg_my_temp_schema pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible
    pg_partition_ancestors pg_partition_root pg_partition_tree pg_postmaster_start_time
    pg_relation_filenode pg_relation_is_publishable pg_relation_is_updatable pg_relation_size
    pg_sequence_last_value pg_sequence_parameters pg_settings_get_flags pg_size_bytes pg_size_pretty
    pg_sleep pg_sleep_for pg_sleep_until pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin
    pg_statistics_obj_is_visible pg_table_is_visible pg_table_size pg_timezone_names
    pg_total_relation_size pg_trigger_depth pg_ts_config_is_visible pg_ts_dict_is_visible
    pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible pg_typeof pg_visible_in_snapshot
    to_regclass to_regcollation to_regnamespace to_regoper to_regoperator to_regproc to_regprocedure
    to_regrole to_regtype to_regtypemod
"""
# Functions that the grammar itself knows, and types that take a length.
_GRAMMAR = """
    array cast coalesce collation_for exists extract greatest grouping json json_array json_arrayagg json_exists
    json_objectagg json_query json_scalar json_serialize json_table json_value least merge_action nullif row
    treat trim xmlattributes xmlconcat xmlelement xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize
    xmltable bit varbit char character varying varchar bpchar nchar decimal dec numeric float int integer
    smallint bigint real double precision boolean interval time timestamp timetz timestamptz current_time
    current_timestamp localtime localtimestamp setof
"""
_KEYWORDS = """
    all and any as asc between by case columns conflict cross cube desc distinct else end except fetch filter for from
    group having ilike in inner intersect into is isnull join lateral left like limit materialized not notnull offset on
    only or order outer over right rollup select sets similar some then union using values when where with
"""
_NEVER_BEFORE_A_CALL = frozenset({"as", "with", "recursive", "into", "tablesample"})
_BUILTINS = frozenset(f"{_READING} {_READING_JSON} {_READING_CATALOG}".split())
_SYNTAX = frozenset(f"{_GRAMMAR} {_KEYWORDS}".split())

_EFFECTS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (
        re.compile(
            r"lo_(import|export)|dblink.*|pg_read_.*|pg_stat_file|pg_ls_.*|pg_file_.*|pg_(terminate|cancel)_backend"
            r"|pg_(reload_conf|rotate_logfile|switch_wal|create_restore_point|promote|export_snapshot)"
            r"|pg_(backup|start_backup|stop_backup|wal_replay|logical|replication|sync_replication|log|hba)_.*"
            r"|pg_(create|copy|drop)_.*slot|pg_(stat_reset|import_system|control).*|binary_upgrade_.*"
        ),
        Kind.SERVER,
    ),
    (re.compile(r"set_config|pg_(try_)?advisory_(lock|unlock).*"), Kind.SESSION),
    (
        re.compile(
            r"nextval|setval|lo_(?!get$).*|lowrite|loread|pg_notify|pg_(try_)?advisory_xact_lock.*"
            r"|pg_(restore|clear)_.*_stats|brin_(de)?summarize_.*|gin_clean_pending_list"
        ),
        Kind.WRITE,
    ),
)


def effect_of(name: str) -> Kind | None:
    """What a function is known to do besides reading: by its own name, whatever its schema."""
    own = name.rpartition(".")[2]
    return next((kind for pattern, kind in _EFFECTS if pattern.fullmatch(own)), None)


def is_keyword(parts: Sequence[str], *, quoted: bool) -> bool:
    """Whether a name before a bracket is part of the grammar and no function at all."""
    return len(parts) == 1 and not quoted and parts[0] in _SYNTAX


def only_reads(parts: Sequence[str], *, quoted: bool) -> bool:
    """Whether a function, as it is written, is a builtin that changes nothing."""
    own_schema = len(parts) == 1 or (len(parts) == 2 and parts[0] == "pg_catalog")
    name = parts[-1]
    builtin = name in _BUILTINS or name.startswith("pg_stat_get_")
    return own_schema and (builtin or is_keyword(parts, quoted=quoted))


def called_functions(statement: Statement) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names before a bracket, without keywords; and those of them that may do more than read."""
    tokens = statement.tokens
    seen: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for at in range(1, len(tokens)):
        if tokens[at].text != "(" or tokens[at].kind != "punct" or tokens[at - 1].kind not in ("word", "name"):
            continue
        parts, before = _dotted_name(tokens, at - 1)
        quoted = tokens[at - 1].kind == "name"
        if before in _NEVER_BEFORE_A_CALL or is_keyword(parts, quoted=quoted):
            continue
        seen[".".join(parts)] = None
        if not only_reads(parts, quoted=quoted):
            unknown[".".join(parts)] = None
    return tuple(seen), tuple(unknown)


def _dotted_name(tokens: list[Token], at: int) -> tuple[list[str], str]:
    """A name that ends at a token, part by part, and the word before it."""
    parts = [tokens[at].text]
    while at >= 2 and tokens[at - 1].text == "." and tokens[at - 2].kind in ("word", "name"):
        at -= 2
        parts.append(tokens[at].text)
    before = tokens[at - 1] if at else None
    return parts[::-1], before.text if before is not None and before.kind == "word" else ""
