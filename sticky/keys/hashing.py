"""
Chooses a slot for a key, and makes sticky ids that carry their slot. Pure, used in the primary and in workers.

Rendezvous hashing: every slot has a score for every key, and the live slot with the highest score has the key. So when
a slot is lost only its own keys move, and when it comes back exactly those return, without a table. The scores are
BLAKE2b with the cluster's secret as its key: the same on every machine and after every restart that has the secret,
and no client without it can aim at one worker.

**Two secrets.** While a secret is replaced, the one before it is given too (`previous`). Keys still hash under the
previous one, so no key moves. Ids of both are read, and new ones are made under the new one. After `previous` has been
removed, keys hash under the new one. A sticky id of the previous one is then hashed like any other text, and a query id
of it leads nowhere.

It never uses `hash()`, which differs between processes, nor `% len(live)`, which moves almost every key when one slot
is lost.
"""

from __future__ import annotations

import hmac
import os
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NewType

from sticky.errors import NoLiveSlot, SettingsError

Slot = NewType("Slot", int)
"""A worker's number, from 0. It outlives the worker's crash."""

StickyId = NewType("StickyId", str)
"""The id that routes a client: from a request, or made by `Hashing.new_sticky_id` with a tag."""

QueryId = NewType("QueryId", str)
"""An id of `Hashing.new_query_id`: a secret of the server's own, which the client repeats in a query parameter."""

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

MAX_QUERY_SLOT: Final = 0x3FF
"""The largest slot that a query id can carry. `sticky.settings.WORKERS_MAX` is below it."""

# Clients and routers of Engine.IO expect ids of 20 characters: 15 bytes, which without padding have one spelling.
_QUERY_RANDOM_BYTES: Final = 10  # 80 bits that only the server and this client know: the id names a session
_QUERY_PLACE_BYTES: Final = 5  # the slot in 10 bits, and its tag in the other 30
_QUERY_TAG_BITS: Final = 30  # tried over the network. A forged tag would win a choice of worker, nothing more.
_QUERY_IDS_KNOWN: Final = 4096  # ids whose slots are kept: a client repeats its own in every request
_QUERY_ID_CHARACTERS: Final = (_QUERY_RANDOM_BYTES + _QUERY_PLACE_BYTES) * 4 // 3

_URL_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# One digest of BLAKE2b has 64 bytes: the scores of eight slots. Four workers cost one hash for each key, not four.
_SCORES: Final = struct.Struct("<8Q")
_SLOTS_IN_A_ROW: Final = 8


class _Tags:
    """The tags that one secret makes."""

    __slots__ = ("_id_tags", "_query_tags", "_tags")

    def __init__(self, key: bytes) -> None:
        self._tags = blake2b(digest_size=_TAG_BYTES, key=key, person=b"sticky.session")
        self._id_tags = blake2b(digest_size=_TAG_BYTES, key=key, person=b"sticky.id")
        self._query_tags = blake2b(digest_size=4, key=key, person=b"sticky.query")

    def of_body(self, body: bytes) -> bytes:
        """Return the tag of what a sticky id of ours begins with."""
        tag = self._tags.copy()
        tag.update(body)
        return tag.digest()

    def of_app_id(self, place: bytes, app_id: bytes) -> bytes:
        """Return the tag of an application's id at a slot. The place has a fixed size: no two inputs meet."""
        tag = self._id_tags.copy()
        tag.update(place + app_id)
        return tag.digest()

    def of_query_id(self, random: bytes, slot: int) -> bytes:
        """Return the place of a query id: the slot and, in the bits below it, the tag of both parts."""
        tag = self._query_tags.copy()
        tag.update(random + slot.to_bytes(_SLOT_BYTES, "big"))
        bits = int.from_bytes(tag.digest(), "big") >> 32 - _QUERY_TAG_BITS
        return (slot << _QUERY_TAG_BITS | bits).to_bytes(_QUERY_PLACE_BYTES, "big")


class Hashing:
    """The choices that one secret makes, or two while one replaces the other. Nothing changes them."""

    def __init__(
        self, secret: bytes, *, previous: bytes | None = None, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        """
        Hash under `secret`. Any process that has it can compute every choice and make sticky ids.

        Args:
            secret: at least 16 bytes; of more than 64, its digest is the key, for BLAKE2b takes no longer one.
            previous: the secret that `secret` replaces. Keys keep the slots that it gave them.
            entropy: where the random part of a sticky id comes from.

        Raises:
            SettingsError: a secret is too short to keep anything.
        """
        keys = [_hash_key("secret", secret)]
        if previous is not None:
            keys.append(_hash_key("secret_previous", previous))
        # `person` keeps the uses of one key apart: no score can ever serve as a tag.
        self._scores = blake2b(digest_size=_SCORES.size, key=keys[-1], person=b"sticky.score")
        self._tags = tuple(map(_Tags, keys))
        self._query_slot = lru_cache(_QUERY_IDS_KNOWN)(self._read_query_id)
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
        return StickyId(urlsafe_b64encode(body + self._tags[0].of_body(body)).decode("ascii"))

    def slot_of(self, sticky_id: str) -> Slot | None:
        """
        Read the slot out of a sticky id, of an application's id with its tag, or of a query id. None when no secret
        here made it.

        The slot need not be live, nor exist any longer: the cluster may have been scaled since.
        """
        if sticky_id[-_SUFFIX_CHARACTERS:][:1] == "~" and (slot := self._untag_text(sticky_id)) is not None:
            return slot
        if len(sticky_id) != _STICKY_ID_CHARACTERS or not sticky_id.isascii():
            return self.slot_of_query_id(sticky_id)
        text = sticky_id.encode("ascii")
        if text.translate(None, _URL_SAFE):  # the decoder skips what it does not know, and an id has one spelling
            return None
        raw = urlsafe_b64decode(text)
        body, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        for tags in self._tags:
            if hmac.compare_digest(tag, tags.of_body(body)):
                return Slot(int.from_bytes(body[:_SLOT_BYTES], "big"))
        return None

    def new_query_id(self, slot: Slot) -> QueryId:
        """
        Make an id for a session that is found by a query parameter, whatever `--sticky` says. It leads to `slot`.

        It has 20 characters of a URL's safe ones. Without the secret it can be neither guessed nor made for a slot.
        """
        assert 0 <= slot <= MAX_QUERY_SLOT, f"slot {slot} does not fit a query id"
        random = self._entropy(_QUERY_RANDOM_BYTES)
        return QueryId(urlsafe_b64encode(random + self._tags[0].of_query_id(random, slot)).decode("ascii"))

    def slot_of_query_id(self, query_id: str) -> Slot | None:
        """
        Read the slot out of a query id; None when no secret here made it.

        The slot need not be live, nor exist any longer. Its worker need not be the one that made the id.
        """
        return self._query_slot(query_id) if len(query_id) == _QUERY_ID_CHARACTERS and query_id.isascii() else None

    def _read_query_id(self, query_id: str) -> Slot | None:
        text = query_id.encode("ascii")
        if text.translate(None, _URL_SAFE):
            return None
        raw = urlsafe_b64decode(text)
        random, place = raw[:_QUERY_RANDOM_BYTES], raw[_QUERY_RANDOM_BYTES:]
        slot = int.from_bytes(place, "big") >> _QUERY_TAG_BITS
        for tags in self._tags:
            if hmac.compare_digest(place, tags.of_query_id(random, slot)):
                return Slot(slot)
        return None

    def tag(self, app_id: bytes, slot: Slot) -> bytes:
        """
        Add a slot to an id that an application made, of any bytes and at least one. `untag` takes exactly that off
        again, whatever the id ends in; what is added never needs quotes or encoding.
        """
        assert app_id, "an empty id names nothing"
        assert 0 <= slot <= MAX_SLOT, f"slot {slot} does not fit a tag"
        place = slot.to_bytes(_SLOT_BYTES, "big")
        return app_id + _MARK + urlsafe_b64encode(place + self._tags[0].of_app_id(place, app_id))

    def untag(self, value: bytes) -> tuple[bytes, Slot] | None:
        """Split what `tag` made into the application's id and the slot; None when no secret here made it."""
        app_id, suffix = value[:-_SUFFIX_CHARACTERS], value[-_SUFFIX_CHARACTERS:]
        if not app_id or suffix[:1] != _MARK or suffix[1:].translate(None, _URL_SAFE):
            return None
        raw = urlsafe_b64decode(suffix[1:])
        place, tag = raw[:_SLOT_BYTES], raw[_SLOT_BYTES:]
        for tags in self._tags:
            if hmac.compare_digest(tag, tags.of_app_id(place, app_id)):
                return app_id, Slot(int.from_bytes(place, "big"))
        return None

    def _untag_text(self, sticky_id: str) -> Slot | None:
        try:
            tagged = self.untag(sticky_id.encode("latin-1"))  # as `Affinity` decodes a header
        except UnicodeEncodeError:
            return None
        return None if tagged is None else tagged[1]

    def _row(self, key: Key, number: int) -> tuple[int, ...]:
        """Score the eight slots from `8 * number` on. The number has a fixed size, so that no two inputs meet."""
        scores = self._scores.copy()
        scores.update(number.to_bytes(4, "big") + key)
        return _SCORES.unpack(scores.digest())


def _hash_key(name: str, secret: bytes) -> bytes:
    """
    Return what BLAKE2b is keyed with.

    Raises:
        SettingsError: `secret` is too short.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise SettingsError(name, f"{len(secret)} bytes are too few, at least {MIN_SECRET_BYTES} are needed")
    return blake2b(secret, person=b"sticky.secret").digest() if len(secret) > blake2b.MAX_KEY_SIZE else secret
