"""
WebSocket frames (RFC 6455, sections 5.2 and 5.7): where one ends, what kind it is, and how ours are built.

The standard's own examples are checked byte by byte; for the rest, websockets' implementation writes the frames that
ours has to find, at any place and cut anywhere.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from realtime.transport.frames import BINARY, TEXT, Kind, apply_mask, look, sayable

LIMIT = 65536
SIZES = st.sampled_from([0, 1, 124, 125, 126, 127, 255, 256, 65535, 65536]) | st.integers(0, 300)


def written(first: int, payload: bytes, mask: bytes = b"\x37\xfa\x21\x3d") -> bytes:
    """Write a client's frame with a first byte of one's own choice."""
    size = len(payload)
    if size < 126:
        length = bytes((first, 0x80 | size))
    elif size < 65536:
        length = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        length = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return length + mask + apply_mask(payload, mask)


# The examples of section 5.7


def test_the_standards_unmasked_text_is_what_we_write() -> None:
    assert TEXT.frame(b"Hello") == bytes.fromhex("810548656c6c6f")


def test_the_standards_masked_text_is_a_plain_frame() -> None:
    data = bytes.fromhex("818537fa213d7f9f4d5158")
    assert look(data, 0, LIMIT) == (Kind.PLAIN, 6, 11)
    assert apply_mask(data[6:11], data[2:6]) == b"Hello"


def test_the_standards_lengths_are_what_we_write() -> None:
    assert BINARY.frame(bytes(256)) == bytes.fromhex("827e0100") + bytes(256)
    assert BINARY.frame(bytes(65536)) == bytes.fromhex("827f0000000000010000") + bytes(65536)


def test_the_standards_masked_pong_and_the_parts_of_a_message_are_for_the_judge() -> None:
    assert look(bytes.fromhex("8a8537fa213d7f9f4d5158"), 0, LIMIT) == (Kind.OTHER, 6, 11)
    assert look(written(0x01, b"Hel"), 0, LIMIT) == (Kind.OTHER, 6, 9)
    assert look(written(0x80, b"lo"), 0, LIMIT) == (Kind.OTHER, 6, 8)


# Ours


@given(SIZES)
def test_what_we_write_is_what_websockets_writes(size: int) -> None:
    payload = bytes(size)
    assert TEXT.frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)
    assert BINARY.frame(payload) == Frame(Opcode.BINARY, payload).serialize(mask=False)


def test_the_two_kinds_of_frames_have_names() -> None:
    assert (TEXT.name, BINARY.name) == ("websocket-text", "websocket-binary")
    assert repr(TEXT) == "<frames websocket-text>"


# Theirs


@given(st.sampled_from([Opcode.TEXT, Opcode.BINARY]), SIZES, st.binary(max_size=20), st.binary(max_size=20))
def test_a_whole_message_is_found_at_any_place(opcode: Opcode, size: int, before: bytes, after: bytes) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frame = Frame(opcode, payload).serialize(mask=True)
    kind, payload_at, end = look(before + frame + after, len(before), LIMIT)
    assert (kind, end) == (Kind.PLAIN, len(before) + len(frame))
    data = before + frame + after
    assert apply_mask(data[payload_at:end], data[payload_at - 4 : payload_at]) == payload


@given(SIZES, st.data())
def test_the_beginning_of_a_frame_is_partial_wherever_it_is_cut(size: int, data: st.DataObject) -> None:
    frame = written(0x82, bytes(size))
    cut = data.draw(st.integers(0, len(frame) - 1))
    assert look(b"." + frame[: cut + 1], 1, LIMIT)[0] is (Kind.PLAIN if cut + 1 == len(frame) else Kind.PARTIAL)


@given(st.integers(0, 255), st.integers(0, 300))
def test_a_first_byte_says_whether_a_frame_is_plain_for_the_judge_or_refused(first: int, size: int) -> None:
    kind = look(written(first, bytes(size)), 0, LIMIT)[0]
    if first in (0x81, 0x82):
        assert kind is Kind.PLAIN
    elif first & 0x0F in {int(each) for each in Opcode}:
        assert kind is Kind.OTHER, "parts, controls, reserved bits"
    else:
        assert kind is Kind.REFUSED


@pytest.mark.parametrize("first", [0x81, 0x82, 0x88, 0x89, 0x00])
def test_a_frame_without_a_mask_is_refused_from_its_second_byte_on(first: int) -> None:
    assert look(bytes((first,)), 0, LIMIT)[0] is Kind.PARTIAL
    assert look(bytes((first, 0x05)), 0, LIMIT)[0] is Kind.REFUSED


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
def test_a_reserved_opcode_is_refused_before_its_payload_comes(opcode: int) -> None:
    assert look(bytes((0x80 | opcode, 0xFF)), 0, LIMIT)[0] is Kind.REFUSED


@pytest.mark.parametrize(("limit", "size"), [(10, 11), (125, 126), (300, 301), (65535, 65536), (0, 1), (LIMIT, 2**63)])
def test_what_is_longer_than_the_limit_is_too_big_by_its_head_alone(limit: int, size: int) -> None:
    length = size.to_bytes(8, "big")
    alone = bytes((0x82, 0x80 | size)) if size < 126 else bytes((0x82, 0xFF)) + length
    assert look(alone, 0, limit)[0] is Kind.TOO_BIG


@pytest.mark.parametrize("size", [0, 10, 125, 126, 300, 65535, 65536])
def test_what_is_as_long_as_the_limit_is_not_refused(size: int) -> None:
    assert look(written(0x82, bytes(size)), 0, size)[0] is Kind.PLAIN


@pytest.mark.parametrize("first", [0x88, 0x89, 0x8A, 0x09])
def test_a_control_frame_counts_towards_no_message(first: int) -> None:
    assert look(written(first, bytes(125)), 0, 0)[0] is Kind.OTHER
    assert look(written(first, bytes(126)), 0, 0)[0] is Kind.TOO_BIG
    assert look(written(first, bytes(126)), 0, LIMIT)[0] is Kind.OTHER, "the judge says that it is none"


def test_bytes_and_bytearrays_are_read_alike() -> None:
    frame = written(0x81, b"Hello")
    assert look(bytearray(frame), 0, LIMIT) == look(frame, 0, LIMIT)


# The reason of a close


@given(st.text(max_size=300))
def test_a_reason_fits_a_close_frame_and_is_never_json(reason: str) -> None:
    said = sayable(reason)
    assert len(said.encode()) <= 123
    with pytest.raises(json.JSONDecodeError):
        json.loads(said)


@pytest.mark.parametrize("reason", ["", "slow", "internal server error", "ü" * 61, "a" * 123])
def test_a_reason_that_can_be_said_is_said_as_it_is(reason: str) -> None:
    assert sayable(reason) == reason


@pytest.mark.parametrize("reason", ["1", '"text"', "{}", "null", " [1] ", "NaN", '{"code": 1, "reconnect": false}'])
def test_a_reason_that_would_be_read_as_json_is_said_otherwise(reason: str) -> None:
    assert sayable(reason) == f"reason: {reason}"


def test_a_reason_is_cut_between_characters() -> None:
    assert sayable("ü" * 100) == "ü" * 61
    assert sayable("a" * 122 + "€") == "a" * 122
    assert sayable("\ud800") == "?"
    assert sayable("[" * 100_000) == "[" * 123
