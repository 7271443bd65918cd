"""Postgres's text ↔ JSON values: laws that hold for every text Postgres can write."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.errors import InvalidArgument
from agentdb_mcp.execution import types
from agentdb_mcp.execution.types import BUILTIN_TYPES, TypeInfo
from agentdb_mcp.execution.values import decode_all, decoder, encode

TEXT, NUMERIC, DATE = 25, 1700, 1082
ARRAY_OF = {info.element: info for info in BUILTIN_TYPES.values() if info.element}

# What Postgres can store as text: anything but NUL and halves of surrogate pairs.
storable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
awkward = st.text(st.sampled_from("{},;\"\\ \n\tNULnul'éß🙂"), max_size=12)
texts = storable | awkward | st.sampled_from(["NULL", "null", "", " ", "{}", '"', "\\", "\\N", "{{", "a,b"])


def decode(oid: int, text: str) -> object:
    decoding = decoder(BUILTIN_TYPES[oid], BUILTIN_TYPES)
    return text if decoding is None else decoding(text)


def to_text(value: object, oid: int) -> str | None:
    return encode(value, BUILTIN_TYPES[oid], BUILTIN_TYPES, "params[0]")


def array_out(value: list[object] | str | None, delimiter: str = ",") -> str:
    """What array_out of Postgres writes (src/backend/utils/adt/arrayfuncs.c), whose elements are text."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "{" + delimiter.join(array_out(item, delimiter) for item in value) + "}"
    quoted = (
        value == ""
        or value.upper() == "NULL"
        or any(char in '{}"\\' + delimiter or char in " \t\n\r\v\f" for char in value)
    )
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"' if quoted else value


@st.composite
def arrays(draw: st.DrawFn, elements: st.SearchStrategy[object]) -> list[object]:
    """Rectangular, as Postgres's are: one to three dimensions, none of them empty; or the empty array."""
    sizes = draw(st.lists(st.integers(1, 3), max_size=3))
    if not sizes:
        return []

    def fill(left: list[int]) -> list[object]:
        return [fill(left[1:]) if left[1:] else draw(elements) for _ in range(left[0])]

    return fill(sizes)


@given(arrays(st.none() | texts))
def test_an_array_that_postgres_wrote_is_read_as_its_nested_lists(values: list[object]) -> None:
    assert decode(ARRAY_OF[TEXT].oid, array_out(values)) == values


@given(arrays(st.none() | texts))
def test_an_array_that_we_write_reads_back_as_it_was(values: list[object]) -> None:
    text = to_text(values, ARRAY_OF[TEXT].oid)
    assert text is not None
    assert decode(ARRAY_OF[TEXT].oid, text) == values


@given(arrays(st.none() | awkward))
def test_an_array_of_a_type_with_another_delimiter_is_read_too(values: list[object]) -> None:
    boxes = TypeInfo(1020, "box[]", element=603, delimiter=";")
    catalog = {603: TypeInfo(603, "box", delimiter=";"), 1020: boxes}
    decoding = decoder(boxes, catalog)
    assert decoding is not None
    assert decoding(array_out(values, ";")) == values
    written = encode(values, boxes, catalog, "params[0]")
    assert written is not None
    assert decoding(written) == values


@given(arrays(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_elements_of_an_array_are_decoded_as_their_type(values: list[object]) -> None:
    text = array_out(json.loads(json.dumps(values), parse_int=str))

    def expected(value: object) -> object:
        if isinstance(value, list):
            return [expected(item) for item in value]
        return value if value is None or -(2**53) < int(str(value)) < 2**53 else str(value)

    assert decode(ARRAY_OF[types.INT8].oid, text) == expected(values)


@given(arrays(st.binary(max_size=8)))
def test_an_array_of_bytes_goes_in_as_base64_and_comes_out_as_base64(values: list[object]) -> None:
    def as_base64(value: object) -> object:
        if isinstance(value, list):
            return [as_base64(item) for item in value]
        assert isinstance(value, bytes)
        return base64.b64encode(value).decode()

    text = to_text(as_base64(values), ARRAY_OF[types.BYTEA].oid)
    assert text is not None
    assert decode(ARRAY_OF[types.BYTEA].oid, text) == as_base64(values)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | storable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(storable, inner, max_size=4),
    max_leaves=12,
)


# A string for json is the document's own text.
@given(st.lists(json_values.filter(lambda value: not isinstance(value, str)), max_size=4))
def test_an_array_of_json_documents_reads_back_document_by_document(values: list[object]) -> None:
    text = to_text(values, ARRAY_OF[types.JSONB].oid)
    assert text is not None
    kept = [as_decoded(value) for value in values]
    assert decode(ARRAY_OF[types.JSONB].oid, text) == kept


def as_decoded(value: object) -> object:
    """The JSON value with what a double cannot hold as a string of its digits."""
    if isinstance(value, dict):
        return {key: as_decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_decoded(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return str(value)
    return value


digits = st.text("0123456789", min_size=1, max_size=30)
json_numbers = st.builds(
    lambda sign, whole, fraction, exponent: (
        sign + (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "") + exponent
    ),
    st.sampled_from(["", "-"]),
    digits,
    st.just("") | digits,
    st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E+", "e-"]), st.integers(0, 10**20).map(str)),
)


@given(json_numbers)
def test_a_number_in_json_keeps_its_value_as_a_number_or_as_its_own_digits(text: str) -> None:
    value = decode(types.JSONB, text)
    if isinstance(value, str):
        assert value == text
    else:
        assert isinstance(value, int | float)
        assert math.isfinite(value)
        assert Decimal(repr(value)) == Decimal(text)
        assert not isinstance(value, int) or abs(value) < 2**53


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9007199254740991", 9007199254740991),
        ("9007199254740992", "9007199254740992"),
        ("-9007199254740992", "-9007199254740992"),
        ("0.1", 0.1),
        ("0.10000000000000001", "0.10000000000000001"),
        ("1e400", "1e400"),
        ("1e-400", "1e-400"),
        ("1e5", 100000.0),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0e99999999999999999999", "0e99999999999999999999"),
    ],
)
def test_a_number_that_a_double_cannot_hold_is_given_as_its_digits(text: str, value: object) -> None:
    assert decode(types.JSON, f'{{"n": [{text}]}}') == {"n": [value]}


def test_a_number_of_many_thousand_digits_is_no_burden() -> None:
    text = "9" * 100_000
    assert decode(types.JSONB, text) == text


@given(json_values)
def test_json_comes_back_as_it_was_and_can_be_sent_on(value: object) -> None:
    read = decode(types.JSON, json.dumps(value, ensure_ascii=False))
    assert read == as_decoded(value)
    json.dumps(read, allow_nan=False).encode()


@given(st.integers(101, 300), st.booleans())
def test_json_deeper_than_we_read_stays_text(depth: int, objects: bool) -> None:
    text = '{"a":' * depth + "1" + "}" * depth if objects else "[" * depth + "]" * depth
    assert decode(types.JSONB, text) == text


@pytest.mark.parametrize("bracket", ["]", "}"])
def test_brackets_in_strings_do_not_hide_how_deep_json_is(bracket: str) -> None:
    text = f'["{bracket * 5000}", {"[" * 2000}{"]" * 2000}]'
    assert decode(types.JSON, text) == text


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udc00": 1}', '["\\uD83D", "\\uDE00"]'])
def test_json_with_half_of_a_surrogate_pair_stays_text(text: str) -> None:
    assert decode(types.JSON, text) == text


@given(st.floats(width=64))
def test_a_float_is_a_number_or_its_name(value: float) -> None:
    text = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(repr(value), repr(value))
    read = decode(types.FLOAT8, text)
    assert read == (value if math.isfinite(value) else text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_bigint_keeps_every_digit(value: int) -> None:
    read = decode(types.INT8, str(value))
    assert int(str(read)) == value
    assert isinstance(read, int) == (abs(value) < 2**53)


@given(st.binary(max_size=40))
def test_bytes_are_given_as_base64(value: bytes) -> None:
    assert decode(types.BYTEA, "\\x" + value.hex()) == base64.b64encode(value).decode()
    assert to_text(base64.b64encode(value).decode(), types.BYTEA) == "\\x" + value.hex()


dates = st.builds("{:04}-{:02}-{:02}".format, st.integers(1, 294276), st.integers(1, 12), st.integers(1, 31))
times = st.builds("{:02}:{:02}:{:02}".format, st.integers(0, 24), st.integers(0, 59), st.integers(0, 60))
fractions = st.just("") | st.integers(1, 999999).map(lambda number: f".{number:06}".rstrip("0"))
zones = st.builds(
    "{}{:02}{}".format, st.sampled_from("+-"), st.integers(0, 15), st.sampled_from(["", ":30", ":45", ":19:32"])
)
eras = st.sampled_from(["", " BC"])


@given(dates, times, fractions, st.just("") | zones, eras)
def test_a_timestamp_keeps_all_that_postgres_wrote(day: str, time: str, fraction: str, zone: str, era: str) -> None:
    oid = types.TIMESTAMPTZ if zone else types.TIMESTAMP
    read = decode(oid, f"{day} {time}{fraction}{zone}{era}")
    assert isinstance(read, str)
    assert read.startswith(day)
    assert read[len(day)] in "T "
    rest = read[len(day) + 1 :]
    assert rest.startswith(time + fraction + zone)
    assert rest.endswith(era)


@pytest.mark.parametrize("oid", [types.TIMESTAMP, types.TIMESTAMPTZ])
@pytest.mark.parametrize("text", ["infinity", "-infinity", "Thu Jan 01 00:00:00 2026", "01/02/2026 00:00:00 UTC"])
def test_a_timestamp_in_another_style_stays_as_postgres_wrote_it(oid: int, text: str) -> None:
    assert decode(oid, text) == text


@pytest.mark.parametrize(
    ("oid", "samples"),
    [
        (types.BOOL, ["t", "f"]),
        (types.BYTEA, ["", "\\x", "plain", "\\\\x41", "\\000\\377"]),
        (types.INT2, ["-32768", "32767", "0"]),
        (types.INT4, ["-2147483648"]),
        (types.OID, ["0", "4294967295"]),
        (types.FLOAT4, ["1e-45", "3.4028235e+38", "-0", "NaN"]),
        (types.FLOAT8, ["5e-324", "1.7976931348623157e+308", "-Infinity"]),
        (types.VOID, [""]),
        (types.JSON, [' { "a" : [ ] } ', "null", '"\\u0000"', "-0", '""', "1E2"]),
        (NUMERIC, ["NaN", "-Infinity", "1.10", "0." + "0" * 16383]),
        (DATE, ["5874897-12-31", "4713-01-01 BC", "infinity"]),
    ],
)
def test_extreme_values_of_every_decoded_type_are_read(oid: int, samples: list[str]) -> None:
    for sample in samples:
        json.dumps(decode(oid, sample), allow_nan=False)


@given(st.sampled_from(sorted(ARRAY_OF)), st.sampled_from(["{}", "[0:1]={NULL,NULL}", "{NULL}", "{{NULL},{NULL}}"]))
def test_arrays_of_nulls_and_with_bounds_are_read_for_every_type(element: int, text: str) -> None:
    read = decode(ARRAY_OF[element].oid, text)
    assert read == (text if text.startswith("[") else json.loads(text.translate(str.maketrans("{}", "[]")).lower()))


@given(storable, st.sampled_from([TEXT, types.INT4, types.JSONB, DATE, types.FLOAT8]))
def test_text_for_a_parameter_is_sent_as_it_is(value: str, oid: int) -> None:
    assert to_text(value, oid) == value


@given(st.text(st.characters(max_codepoint=126, min_codepoint=1), max_size=12))
def test_text_for_bytea_is_base64_or_hexadecimal_or_refused(value: str) -> None:
    with contextlib.suppress(InvalidArgument):
        written = to_text(value, types.BYTEA)
        assert written is not None
        assert written.startswith("\\x")


@pytest.mark.parametrize("value", ["é", "ÿÿÿÿ", "🙂", "abcd é"])
def test_text_outside_of_ascii_for_bytea_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidArgument, match=r"params\[0\]"):
        to_text(value, types.BYTEA)


@pytest.mark.parametrize("value", [{"a": "\ud800"}, ["x", {"\udfff": 1}]])
def test_half_of_a_surrogate_pair_inside_a_json_parameter_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgument, match=r"params\[0\]"):
        to_text(value, types.JSONB)


def test_the_place_of_a_bad_element_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"params\[0\]\[1\]\[0\]"):
        to_text([["ok"], ["a\0"]], ARRAY_OF[TEXT].oid)


@pytest.mark.parametrize(
    ("value", "oid", "text"),
    [
        (None, types.INT4, None),
        (True, types.BOOL, "true"),
        (5.0, types.INT4, "5"),
        (1e16, types.INT8, "10000000000000000"),
        (0.1, types.FLOAT8, "0.1"),
        (10**30, NUMERIC, "1" + "0" * 30),
        ({"é": None}, types.JSONB, '{"é": null}'),
        ([1, "x"], types.JSONB, '[1, "x"]'),
    ],
)
def test_a_json_value_becomes_the_text_that_its_type_reads(value: object, oid: int, text: str | None) -> None:
    assert to_text(value, oid) == text


@given(
    st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)) | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.sampled_from([types.INT4, types.INT8, types.OID, types.FLOAT8, types.BYTEA, NUMERIC]),
)
def test_a_column_has_the_values_that_each_text_has_by_itself(numbers: list[int | None], oid: int) -> None:
    texts = [None if number is None else str(number) for number in numbers]
    decode = decoder(BUILTIN_TYPES[oid], BUILTIN_TYPES)
    longest = max((len(text) for text in texts if text is not None), default=0)
    values = decode_all(texts, decode, longest)
    alone = [text if text is None or decode is None else decode(text) for text in texts]
    assert list(values) == alone
    assert [type(value) for value in values] == [type(value) for value in alone]
