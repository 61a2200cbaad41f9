"""
Chooses a slot for a key, and makes sticky ids that carry their slot. Pure, used in the primary and in workers.

Rendezvous hashing: every slot has a score for every key, and the live slot with the highest score has the key. So when
a slot is lost only its own keys move, and when it comes back exactly those return, without a table. The scores are
BLAKE2b with the cluster's secret as its key: the same on every machine and after every restart that has the secret,
and no client without it can aim at one worker.

It never uses `hash()`, which differs between processes, nor `% len(live)`, which moves almost every key when one slot
is lost.
"""

from __future__ import annotations

import hmac
import os
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Final, NewType

from sticky.errors import NoLiveSlot, SettingsError

Slot = NewType("Slot", int)
"""A worker's number, from 0. It outlives the worker's crash."""

StickyId = NewType("StickyId", str)
"""The id that routes a client: from a request, or made by `Hashing.new_sticky_id` with a tag."""

Key = NewType("Key", bytes)
"""What is hashed to a slot."""

MIN_SECRET_BYTES: Final = 16

MAX_SLOT: Final = 0xFFFF
"""The largest slot that a sticky id can carry: it has two bytes for it."""

# Three bytes are four characters: these make 28, and without padding an id has exactly one spelling.
_SLOT_BYTES: Final = 2
_RANDOM_BYTES: Final = 12  # 96 bits: no two clients ever share an id
_TAG_BYTES: Final = 7  # 56 bits, tried over the network. A forged tag would win a choice of worker, nothing more.
_STICKY_ID_CHARACTERS: Final = (_SLOT_BYTES + _RANDOM_BYTES + _TAG_BYTES) * 4 // 3

# An application's own id carries its slot behind a mark: nine bytes more, which are twelve characters.
_MARK: Final = b"~"
_SUFFIX_CHARACTERS: Final = len(_MARK) + (_SLOT_BYTES + _TAG_BYTES) * 4 // 3

_URL_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# One digest of BLAKE2b has 64 bytes: the scores of eight slots. Four workers cost one hash for each key, not four.
_SCORES: Final = struct.Struct("<8Q")
_SLOTS_IN_A_ROW: Final = 8


class Hashing:
    """The choices that one secret makes. Holds nothing that changes."""

    def __init__(self, secret: bytes, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        """
        Hash under `secret`. Any process that has it can compute every choice and make sticky ids.

        Args:
            secret: at least 16 bytes; of more than 64, its digest is the key, for BLAKE2b takes no longer one.
            entropy: where the random part of a sticky id comes from.

        Raises:
            SettingsError: The secret is too short to keep anything.
        """
        if len(secret) < MIN_SECRET_BYTES:
            raise SettingsError("secret", f"{len(secret)} bytes are too few, at least {MIN_SECRET_BYTES} are needed")
        if len(secret) > blake2b.MAX_KEY_SIZE:
            secret = blake2b(secret, person=b"sticky.secret").digest()
        # `person` keeps the two uses of one key apart: no score can ever serve as a tag.
        self._scores = blake2b(digest_size=_SCORES.size, key=secret, person=b"sticky.score")
        self._tags = blake2b(digest_size=_TAG_BYTES, key=secret, person=b"sticky.session")
        self._id_tags = blake2b(digest_size=_TAG_BYTES, key=secret, person=b"sticky.id")
        self._entropy = entropy

    def choose(self, key: Key, live: Collection[Slot]) -> Slot:
        """
        Give `key` its slot among those that are live, in any order.

        Raises:
            NoLiveSlot: `live` is empty.
        """
        best, best_score = None, -1
        row_number, row = -1, tuple[int, ...]()
        for slot in live:
            number, column = divmod(slot, _SLOTS_IN_A_ROW)
            if number != row_number:
                row_number, row = number, self._row(key, number)
            score = row[column]
            # Two equal scores of 64 bits will not be met; the lower slot wins, so that the order of `live` never does.
            if best is None or score > best_score or (score == best_score and slot < best):
                best, best_score = slot, score
        if best is None:
            raise NoLiveSlot
        return best

    def new_sticky_id(self, slot: Slot) -> StickyId:
        """Make a new sticky id, which leads to `slot`. It is safe in a cookie, a query and a header as it is."""
        assert 0 <= slot <= MAX_SLOT, f"slot {slot} does not fit a sticky id"
        body = slot.to_bytes(_SLOT_BYTES, "big") + self._entropy(_RANDOM_BYTES)
        return StickyId(urlsafe_b64encode(body + self._tag(body)).decode("ascii"))

    def slot_of(self, sticky_id: str) -> Slot | None:
        """
        Read the slot out of a sticky id, or of an application's id with its tag; None when this secret made neither.

        The slot need not be live, nor exist any longer: the cluster may have been scaled since.
        """
        if sticky_id[-_SUFFIX_CHARACTERS:][:1] == "~" and (slot := self._untag_text(sticky_id)) is not None:
            return slot
        if len(sticky_id) != _STICKY_ID_CHARACTERS or not sticky_id.isascii():
            return None
        text = sticky_id.encode("ascii")
        if text.translate(None, _URL_SAFE):  # the decoder skips what it does not know, and an id has one spelling
            return None
        raw = urlsafe_b64decode(text)
        body, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(body)):
            return None
        return Slot(int.from_bytes(body[:_SLOT_BYTES], "big"))

    def tag(self, app_id: bytes, slot: Slot) -> bytes:
        """
        Add a slot to an id that an application made, of any bytes and at least one. `untag` takes exactly that off
        again, whatever the id ends in; what is added never needs quotes or encoding.
        """
        assert app_id, "an empty id names nothing"
        place = slot.to_bytes(_SLOT_BYTES, "big")
        return app_id + _MARK + urlsafe_b64encode(place + self._id_tag(place, app_id))

    def untag(self, value: bytes) -> tuple[bytes, Slot] | None:
        """Split what `tag` made into the application's id and the slot; None when this secret did not make it."""
        app_id, suffix = value[:-_SUFFIX_CHARACTERS], value[-_SUFFIX_CHARACTERS:]
        if not app_id or suffix[:1] != _MARK or suffix[1:].translate(None, _URL_SAFE):
            return None
        raw = urlsafe_b64decode(suffix[1:])
        place, tag = raw[:_SLOT_BYTES], raw[_SLOT_BYTES:]
        if not hmac.compare_digest(tag, self._id_tag(place, app_id)):
            return None
        return app_id, Slot(int.from_bytes(place, "big"))

    def _untag_text(self, sticky_id: str) -> Slot | None:
        try:
            tagged = self.untag(sticky_id.encode("latin-1"))  # as `Affinity` decodes a header
        except UnicodeEncodeError:
            return None
        return None if tagged is None else tagged[1]

    def _id_tag(self, place: bytes, app_id: bytes) -> bytes:
        tag = self._id_tags.copy()
        tag.update(place + app_id)  # the place has a fixed size, so that no two inputs meet
        return tag.digest()

    def _row(self, key: Key, number: int) -> tuple[int, ...]:
        """Score the eight slots from `8 * number` on. The number has a fixed size, so that no two inputs meet."""
        scores = self._scores.copy()
        scores.update(number.to_bytes(4, "big") + key)
        return _SCORES.unpack(scores.digest())

    def _tag(self, body: bytes) -> bytes:
        tag = self._tags.copy()
        tag.update(body)
        return tag.digest()
