"""Keys to slots, and sticky ids."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky.errors import NoLiveSlot, SettingsError
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.hashing import MAX_QUERY_SLOT, MAX_SLOT, Hashing, Key, Slot, StickyId
from sticky.settings import WORKERS_MAX

SECRET = b"a secret of some length"

secrets = st.binary(min_size=16, max_size=80)
keys = st.binary(max_size=40).map(Key)
slots = st.integers(0, 200).map(Slot)


def slots_up_to(count: int) -> list[Slot]:
    return [Slot(number) for number in range(count)]


# --- rendezvous ---


@given(secrets, keys, st.sets(slots, min_size=2))
def test_losing_a_slot_moves_only_its_own_keys_and_its_return_brings_exactly_those_back(
    secret: bytes, key: Key, live: set[Slot]
) -> None:
    hashing = Hashing(secret)
    chosen = hashing.choose(key, live)
    assert chosen in live
    for lost in live:
        now = hashing.choose(key, live - {lost})
        assert (now != chosen) == (lost == chosen)
        assert now != lost


@given(secrets, keys, st.lists(slots, min_size=1, unique=True), st.randoms(use_true_random=False))
def test_the_order_of_the_live_slots_is_nothing(secret: bytes, key: Key, live: list[Slot], random: object) -> None:
    shuffled = live[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Hashing(secret).choose(key, live) == Hashing(secret).choose(key, shuffled)


@given(secrets, keys, st.integers(1, 64))
def test_a_new_slot_only_takes_keys_for_itself(secret: bytes, key: Key, count: int) -> None:
    hashing = Hashing(secret)
    before, after = hashing.choose(key, slots_up_to(count)), hashing.choose(key, slots_up_to(count + 1))
    assert after in (before, count)


def test_the_choice_is_the_same_in_every_process_and_version() -> None:
    """Rewritten numbers here move every client of every running cluster at its next start: see that it is meant."""
    hashing = Hashing(SECRET)
    keys = [Key(bytes([4, 127, 0, 0, last])) for last in range(16)]
    assert [hashing.choose(key, slots_up_to(4)) for key in keys] == CHOSEN_OF_4
    assert [hashing.choose(key, slots_up_to(20)) for key in keys] == CHOSEN_OF_20


CHOSEN_OF_4 = [0, 3, 0, 2, 1, 0, 1, 1, 3, 2, 3, 1, 2, 1, 0, 2]
CHOSEN_OF_20 = [0, 11, 10, 16, 1, 0, 10, 4, 19, 4, 10, 14, 7, 8, 17, 2]


def test_another_secret_is_another_choice() -> None:
    """Who does not have the secret cannot aim: knowing one cluster's choices says nothing of another's."""
    live = slots_up_to(4)
    first, second = Hashing(b"1" * 16), Hashing(b"2" * 16)
    keys = [Key(number.to_bytes(2, "big")) for number in range(1_000)]
    same = sum(first.choose(key, live) == second.choose(key, live) for key in keys)
    assert 180 < same < 320  # a quarter, as for two dice of four sides


# The secrets are the digests of the first twenty numbers, not twenty that do well: chosen before anything was counted.
@pytest.mark.parametrize("secret", [sha256(bytes([number])).digest() for number in range(20)], ids=bytes.hex)
def test_300_addresses_spread_evenly_over_4_slots(secret: bytes) -> None:
    affinity, hashing = Affinity(AffinitySettings()), Hashing(secret)
    counts = dict.fromkeys(slots_up_to(4), 0)
    for number in range(300):
        key = affinity.key_for(f"127.0.{number // 100}.{number % 100 + 1}")
        assert key is not None
        counts[hashing.choose(key, counts)] += 1
    assert max(counts.values()) / (300 / 4) <= 1.4


def test_every_slot_of_many_is_chosen_about_equally_often() -> None:
    """Also across the rows of eight whose scores come from one digest."""
    hashing, live = Hashing(SECRET), slots_up_to(20)
    counts = dict.fromkeys(live, 0)
    for number in range(4_000):
        counts[hashing.choose(Key(number.to_bytes(4, "big")), live)] += 1
    assert min(counts.values()) > 140
    assert max(counts.values()) < 260


def test_a_lone_slot_has_every_key() -> None:
    assert Hashing(SECRET).choose(Key(b"x"), [Slot(7)]) == 7


def test_no_live_slot_is_an_error_with_a_sentence() -> None:
    with pytest.raises(NoLiveSlot, match="no slot is live"):
        Hashing(SECRET).choose(Key(b"x"), [])


# --- sticky ids ---


@given(secrets, st.integers(0, MAX_SLOT).map(Slot))
def test_a_sticky_id_leads_back_to_its_slot_in_every_process_with_the_secret(secret: bytes, slot: Slot) -> None:
    sticky_id = Hashing(secret).new_sticky_id(slot)
    assert Hashing(secret).slot_of(sticky_id) == slot


def test_a_sticky_id_is_safe_in_a_cookie_and_a_query_as_it_is() -> None:
    sticky_id = Hashing(SECRET).new_sticky_id(Slot(3))
    assert len(sticky_id) == 28
    assert sticky_id.replace("-", "a").replace("_", "a").isalnum()
    assert sticky_id.isascii()


def test_no_two_clients_share_an_id() -> None:
    hashing = Hashing(SECRET)
    assert len({hashing.new_sticky_id(Slot(0)) for _ in range(1_000)}) == 1_000


@given(st.integers(0, 27), st.characters(max_codepoint=0x2FF))
def test_a_sticky_id_with_one_character_changed_is_not_ours(position: int, character: str) -> None:
    hashing = Hashing(SECRET, entropy=lambda count: b"\x01\x02\x03" * (count // 3))
    sticky_id = hashing.new_sticky_id(Slot(3))
    changed = sticky_id[:position] + character + sticky_id[position + 1 :]
    assert (hashing.slot_of(changed) is None) == (changed != sticky_id)


@given(st.text(max_size=40) | st.text("ABCabc012-_+/=", min_size=28, max_size=28))
def test_any_other_text_is_not_ours_and_no_error(text: str) -> None:
    assert Hashing(SECRET).slot_of(text) is None


def test_a_sticky_id_has_one_spelling() -> None:
    """The decoder takes + for - and / for _, and skips what it does not know: those are not the same id."""
    hashing = Hashing(SECRET, entropy=lambda count: b"\xff" * count)
    sticky_id = hashing.new_sticky_id(Slot(3))
    assert "_" in sticky_id
    broken = sticky_id[:4] + "\n" + sticky_id[4:]
    for other in (sticky_id.replace("_", "/"), sticky_id + "=", sticky_id + "====", sticky_id + " ", broken):
        assert hashing.slot_of(other) is None


def test_another_cluster_s_sticky_id_is_not_ours() -> None:
    assert Hashing(b"2" * 16).slot_of(Hashing(b"1" * 16).new_sticky_id(Slot(0))) is None


def test_a_slot_that_does_not_fit_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Hashing(SECRET).new_sticky_id(Slot(MAX_SLOT + 1))


# --- query ids ---

QUERY_ID_CHARACTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(secrets, st.integers(0, MAX_QUERY_SLOT).map(Slot))
def test_a_query_id_has_20_safe_characters_and_leads_to_its_slot_wherever_the_secret_is(
    secret: bytes, slot: Slot
) -> None:
    query_id = Hashing(secret).new_query_id(slot)
    assert len(query_id) == 20
    assert set(query_id) <= QUERY_ID_CHARACTERS
    assert Hashing(secret).slot_of_query_id(query_id) == slot


def test_every_slot_that_a_cluster_can_have_fits_a_query_id() -> None:
    assert WORKERS_MAX - 1 <= MAX_QUERY_SLOT
    with pytest.raises(AssertionError, match="slot 1024 does not fit a query id"):
        Hashing(SECRET).new_query_id(Slot(MAX_QUERY_SLOT + 1))


def test_a_query_id_has_80_bits_that_are_drawn_anew_for_each() -> None:
    drawn: list[int] = []

    def entropy(count: int) -> bytes:
        drawn.append(count)
        return bytes(count)

    Hashing(SECRET, entropy=entropy).new_query_id(Slot(0))
    assert drawn == [10]
    hashing = Hashing(SECRET)
    assert len({hashing.new_query_id(Slot(0))[:13] for _ in range(1_000)}) == 1_000


@given(st.integers(0, 19), st.characters(max_codepoint=0x2FF))
def test_a_query_id_with_one_character_changed_is_not_ours(position: int, character: str) -> None:
    hashing = Hashing(SECRET, entropy=lambda count: b"\x01" * count)
    query_id = hashing.new_query_id(Slot(3))
    changed = query_id[:position] + character + query_id[position + 1 :]
    assert (hashing.slot_of_query_id(changed) is None) == (changed != query_id)


def test_a_client_that_knows_an_id_of_one_slot_cannot_turn_it_into_one_of_another() -> None:
    """The slot's bits can be read and changed by any client: under the tag of the old slot they lead nowhere."""
    hashing = Hashing(SECRET)
    raw = urlsafe_b64decode(hashing.new_query_id(Slot(3)))
    place = int.from_bytes(raw[10:], "big")
    for slot in range(MAX_QUERY_SLOT + 1):
        aimed = raw[:10] + (slot << 30 | place & (1 << 30) - 1).to_bytes(5, "big")
        assert hashing.slot_of_query_id(urlsafe_b64encode(aimed).decode()) == (3 if slot == 3 else None)


@given(st.text(max_size=30) | st.text("ABCabc012-_+/=~", min_size=20, max_size=20))
def test_any_other_text_is_no_query_id_and_no_error(text: str) -> None:
    assert Hashing(SECRET).slot_of_query_id(text) is None


def test_a_query_id_has_one_spelling() -> None:
    hashing = Hashing(SECRET, entropy=lambda count: b"\xff" * count)
    query_id = hashing.new_query_id(Slot(3))
    assert "_" in query_id
    for other in (query_id.replace("_", "/"), query_id + "=", query_id + "====", query_id + " ", query_id[:-1] + "\n"):
        assert hashing.slot_of_query_id(other) is None


def test_a_query_id_is_a_sticky_id_and_no_other_id_is_a_query_id() -> None:
    hashing = Hashing(SECRET)
    assert hashing.slot_of(hashing.new_query_id(Slot(3))) == 3
    assert hashing.slot_of_query_id(hashing.new_sticky_id(Slot(3))) is None
    assert hashing.slot_of_query_id(hashing.tag(b"x" * 7, Slot(3)).decode()) is None, "that has 20 characters too"


def test_query_ids_of_both_secrets_are_read_while_one_replaces_the_other() -> None:
    old, both, new = Hashing(b"1" * 16), Hashing(b"2" * 16, previous=b"1" * 16), Hashing(b"2" * 16)
    assert both.slot_of_query_id(old.new_query_id(Slot(3))) == 3
    assert both.slot_of_query_id(new.new_query_id(Slot(4))) == 4
    assert new.slot_of_query_id(both.new_query_id(Slot(5))) == 5, "new ones are made under the new secret"
    assert new.slot_of_query_id(old.new_query_id(Slot(3))) is None


# --- secrets ---


def test_a_secret_that_is_too_short_is_refused_with_its_length() -> None:
    with pytest.raises(SettingsError, match="secret: 15 bytes are too few, at least 16") as caught:
        Hashing(b"x" * 15)
    assert (caught.value.name, isinstance(caught.value, ValueError)) == ("secret", True)


def test_a_secret_longer_than_a_key_counts_to_its_last_byte() -> None:
    sticky_id = StickyId(Hashing(b"x" * 200 + b"1").new_sticky_id(Slot(1)))
    assert Hashing(b"x" * 200 + b"1").slot_of(sticky_id) == 1
    assert Hashing(b"x" * 200 + b"2").slot_of(sticky_id) is None
    assert Hashing(b"x" * 64).slot_of(sticky_id) is None


def test_a_secret_is_not_shown() -> None:
    assert "secret of some" not in repr(Hashing(SECRET)) + str(vars(Hashing(SECRET)))


# --- ids that an application makes ---

app_ids = st.binary(min_size=1, max_size=60)


@given(app_ids, slots, st.integers(0, 3))
def test_an_id_comes_back_as_the_application_made_it_whatever_it_looks_like(
    app_id: bytes, slot: Slot, worn: int
) -> None:
    hashing = Hashing(SECRET)
    for _ in range(worn):  # an id that itself looks like one with a tag of ours, or is one
        app_id = hashing.tag(app_id, Slot(7))
    assert hashing.untag(hashing.tag(app_id, slot)) == (app_id, slot)


@given(app_ids, slots)
def test_an_id_with_its_tag_leads_to_its_slot_as_a_sticky_id_does(app_id: bytes, slot: Slot) -> None:
    hashing = Hashing(SECRET)
    assert hashing.slot_of(hashing.tag(app_id, slot).decode("latin-1")) == slot


@given(app_ids, slots, secrets.filter(lambda secret: secret != SECRET))
def test_the_tag_of_another_secret_is_a_part_of_the_id(app_id: bytes, slot: Slot, secret: bytes) -> None:
    assert Hashing(SECRET).untag(Hashing(secret).tag(app_id, slot)) is None


@given(app_ids, slots, st.data())
def test_a_tag_that_was_touched_is_none(app_id: bytes, slot: Slot, data: st.DataObject) -> None:
    value = bytearray(Hashing(SECRET).tag(app_id, slot))
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    assert Hashing(SECRET).untag(bytes(value)) is None


@given(st.text(max_size=40))
def test_a_text_has_no_slot_unless_it_was_made_as_an_id(text: str) -> None:
    assert Hashing(SECRET).slot_of(text) is None


# While one secret replaces another


@given(keys, secrets, secrets)
def test_a_key_keeps_its_slot_while_the_previous_secret_is_given(key: Key, secret: bytes, previous: bytes) -> None:
    live = slots_up_to(8)
    assert Hashing(secret, previous=previous).choose(key, live) == Hashing(previous).choose(key, live)


@given(app_ids, slots, secrets, secrets)
def test_ids_of_both_secrets_are_read_and_new_ones_outlive_the_previous_secret(
    app_id: bytes, slot: Slot, secret: bytes, previous: bytes
) -> None:
    before, during, after = Hashing(previous), Hashing(secret, previous=previous), Hashing(secret)
    assert during.slot_of(before.new_sticky_id(slot)) == during.slot_of(during.new_sticky_id(slot)) == slot
    assert during.untag(before.tag(app_id, slot)) == during.untag(during.tag(app_id, slot)) == (app_id, slot)
    assert after.slot_of(during.new_sticky_id(slot)) == slot
    assert after.untag(during.tag(app_id, slot)) == (app_id, slot)


def test_an_id_of_a_secret_that_is_given_no_longer_has_no_slot() -> None:
    sticky_id = Hashing(b"1" * 16).new_sticky_id(Slot(3))
    assert Hashing(b"3" * 16, previous=b"2" * 16).slot_of(sticky_id) is None


def test_a_previous_secret_that_is_too_short_is_named() -> None:
    with pytest.raises(SettingsError, match="secret_previous: 0 bytes are too few"):
        Hashing(SECRET, previous=b"")
