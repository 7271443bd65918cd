"""Sealing and opening, against vectors made here with the primitives themselves."""

from __future__ import annotations

import os
import traceback

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher as RawCipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdb_mcp.credentials.cipher import Cipher, DecryptionError, looks_encrypted
from agentdb_mcp.errors import ConfigurationError, DatabaseUnavailable, InvalidArgument
from agentdb_mcp.models import Secret

KEY, OLDER, OTHER = (Secret(digits * 32) for digits in ("a1", "b2", "c3"))
PLAIN = "postgresql://owner:s3cret@ep-cool.neon.tech/neondb?sslmode=require"
IV = bytes(range(16))

# Written by Node's `createCipheriv("aes-256-gcm", …)`, which is what Sim uses.
FROM_NODE = (
    "000102030405060708090a0b0c0d0e0f",
    "2b67740c08d1a07e51ff62c93d68cd4f70cf6916945299cb14661a802fc8d41374a879fb424774dd3b726d47169c50",
    "770da315d7f028b6ad482741f410e391",
)


def primitive_parts(plain: bytes, key: Secret = KEY, iv: bytes = IV) -> tuple[str, str, str]:
    encryptor = RawCipher(algorithms.AES(bytes.fromhex(key.reveal())), modes.GCM(iv)).encryptor()
    ciphertext = encryptor.update(plain) + encryptor.finalize()
    return iv.hex(), ciphertext.hex(), encryptor.tag.hex()


def sim_string(plain: bytes, key: Secret = KEY) -> str:
    iv, ciphertext, tag = primitive_parts(plain, key)
    return f"{iv}:{ciphertext}:{tag}"


def document_string(plain: bytes, key: Secret = KEY) -> str:
    iv, ciphertext, tag = primitive_parts(plain, key)
    return f"{iv}:{tag}:{ciphertext}"


@settings(deadline=None)
@given(st.text())
def test_what_is_encrypted_is_decrypted_again(text: str) -> None:
    cipher = Cipher([KEY])
    assert cipher.decrypt(cipher.encrypt(Secret(text))).reveal() == text


@settings(deadline=None)
@given(st.text(), st.sampled_from([sim_string, document_string]))
def test_both_orders_made_with_the_primitives_open(text: str, form: object) -> None:
    assert callable(form)
    assert Cipher([KEY]).decrypt(form(text.encode())).reveal() == text


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)], ids=["iv:ct:tag", "iv:tag:ct"])
def test_a_string_written_by_node_opens_in_both_orders(order: tuple[int, ...]) -> None:
    stored = ":".join(FROM_NODE[part] for part in order)
    assert Cipher([KEY]).decrypt(stored).reveal() == "postgresql://owner:s3cret@db.example/neondb ✓"


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 32])
@pytest.mark.parametrize("form", [sim_string, document_string], ids=["iv:ct:tag", "iv:tag:ct"])
def test_a_ciphertext_as_long_as_a_tag_is_told_apart_by_authentication_alone(form: object, length: int) -> None:
    assert callable(form)
    assert Cipher([KEY]).decrypt(form(b"x" * length)).reveal() == "x" * length


def test_what_is_written_is_what_sim_reads() -> None:
    iv, ciphertext, tag = (bytes.fromhex(part) for part in Cipher([KEY]).encrypt(Secret(PLAIN)).split(":"))
    assert (len(iv), len(tag)) == (16, 16)
    decryptor = RawCipher(algorithms.AES(bytes.fromhex(KEY.reveal())), modes.GCM(iv, tag)).decryptor()
    assert decryptor.update(ciphertext) + decryptor.finalize() == PLAIN.encode()


def test_an_empty_value_has_an_empty_middle() -> None:
    stored = Cipher([KEY]).encrypt(Secret(""))
    assert stored.split(":")[1] == ""
    assert Cipher([KEY]).decrypt(stored) == Secret("")


def test_every_encryption_has_an_iv_of_its_own() -> None:
    cipher = Cipher([KEY])
    assert len({cipher.encrypt(Secret(PLAIN)).split(":")[0] for _ in range(50)}) == 50


def test_upper_case_and_surrounding_space_are_read() -> None:
    assert Cipher([KEY]).decrypt(f" {sim_string(b'hello').upper()}\n").reveal() == "hello"


def test_the_first_key_encrypts_and_all_keys_decrypt() -> None:
    rotated = Cipher([KEY, OLDER], also_decrypt=[OTHER])
    assert Cipher([KEY]).decrypt(rotated.encrypt(Secret("new"))).reveal() == "new"
    for key in (KEY, OLDER, OTHER):
        assert rotated.decrypt(document_string(b"old", key)).reveal() == "old"


def test_compatibility_keys_alone_read_and_do_not_write() -> None:
    cipher = Cipher([], also_decrypt=[OTHER])
    assert cipher.decrypt(sim_string(b"old", OTHER)).reveal() == "old"
    with pytest.raises(ConfigurationError, match="AGENTDB_ENCRYPTION_KEYS is not set"):
        cipher.encrypt(Secret("new"))


def assert_nothing_leaks(error: BaseException, *hidden: str) -> None:
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    for text in hidden:
        assert text not in shown


def fails_to_open(cipher: Cipher, stored: str) -> DecryptionError:
    with pytest.raises(DecryptionError) as caught:
        cipher.decrypt(stored)
    assert isinstance(caught.value, DatabaseUnavailable)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("form", [sim_string, document_string], ids=["iv:ct:tag", "iv:tag:ct"])
def test_a_change_at_any_position_is_noticed(form: object) -> None:
    assert callable(form)
    cipher, stored = Cipher([KEY, OLDER]), form(b"a secret value!!")
    for position, character in enumerate(stored):
        for replacement in {"0", "f", ":", "x"} - {character}:
            changed = stored[:position] + replacement + stored[position + 1 :]
            assert_nothing_leaks(fails_to_open(cipher, changed), "a secret value!!", changed)


@pytest.mark.parametrize("form", [sim_string, document_string], ids=["iv:ct:tag", "iv:tag:ct"])
def test_a_string_cut_anywhere_does_not_open(form: object) -> None:
    assert callable(form)
    stored = form(b"a secret value!!")
    for end in range(len(stored)):
        fails_to_open(Cipher([KEY]), stored[:end])


def test_a_wrong_key_is_told_without_the_secret_or_the_string() -> None:
    stored = sim_string(PLAIN.encode())
    error = fails_to_open(Cipher([OTHER]), stored)
    assert "another key" in error.message
    assert_nothing_leaks(error, PLAIN, stored, stored.split(":")[1], OTHER.reveal())


def test_without_any_key_the_setting_is_named() -> None:
    assert "AGENTDB_ENCRYPTION_KEYS is not set" in fails_to_open(Cipher([]), sim_string(b"x")).message


def test_bytes_that_are_not_text_are_not_shown() -> None:
    error = fails_to_open(Cipher([KEY]), sim_string(b"visible\xff"))
    assert "not text" in error.message
    assert_nothing_leaks(error, "visible")


def test_a_value_that_is_not_unicode_is_refused_without_showing_it() -> None:
    plain = Secret("visible" + "\udc80")
    with pytest.raises(InvalidArgument) as caught:
        Cipher([KEY]).encrypt(plain)
    assert_nothing_leaks(caught.value, "visible")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("abc123abc123", "key 2 must be 64 hexadecimal characters, it has 12"),
        ("", "key 2 must be 64 hexadecimal characters, it has 0"),
        ("g" * 64, "key 2 must be 64 hexadecimal characters, and not all of its 64 are"),
        ("ab " * 21 + "a", "and not all of its 64 are"),
    ],
    ids=["short", "empty", "not hex", "spaced"],
)
def test_a_malformed_key_is_named_by_its_setting_and_place(key: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^MY_KEYS: .*{told}$") as caught:
        Cipher([KEY, Secret(key)], setting="MY_KEYS")
    if key:
        assert key not in repr(caught.value)


def test_a_malformed_compatibility_key_names_the_compatibility_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"^NEON_CONNECTION_ENCRYPTION_KEY or ENCRYPTION_KEY: key 1 "):
        Cipher([KEY], also_decrypt=[Secret("short")])


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (sim_string(b""), True),
        (document_string(b""), True),
        (sim_string(b"x"), True),
        (document_string(b"x"), True),
        (f" {sim_string(b'x')}\n", True),
        ("", False),
        ("a:b:c", False),
        (PLAIN, False),
        (sim_string(b"x")[:-1], False),
        (sim_string(b"x") + ":00", False),
        (f"{'0' * 32}:abc:{'0' * 32}", False),
        (f"{'0' * 24}:ab:{'0' * 32}", False),
        (f"{'٠' * 32}::{'0' * 32}", False),
    ],
)
def test_the_form_of_an_encrypted_string_is_recognized(value: str, answer: bool) -> None:
    assert looks_encrypted(value) is answer


def test_a_hostile_string_is_judged_in_linear_time() -> None:
    assert not looks_encrypted("0" * 32 + ":" + "00" * 1_000_000 + ":g")


def test_the_cipher_shows_no_key() -> None:
    key = Secret(os.urandom(32).hex())
    cipher = Cipher([key])
    assert key.reveal() not in repr(cipher) + repr(vars(cipher))
