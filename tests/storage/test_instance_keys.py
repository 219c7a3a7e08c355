"""Instance ids as table keys: the provider's escape, and a hash where an escaped id cannot be a key."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from state_api.storage.instance_keys import (
    escape_instance_id,
    instance_key,
    ordinal_sort_key,
    shard_of,
    unescape_instance_id,
    utf16_length,
)

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)


def test_ids_are_escaped_as_the_azure_storage_provider_escapes_them() -> None:
    assert escape_instance_id("order/2026#77?x") == "order^02026^277^3x"
    assert escape_instance_id("a\\b^c") == "a^1b^^c"
    assert escape_instance_id("\x00\x1f\x7f\x9f") == "^\u00c0^\u00df^\u013f^\u015f"


@settings(deadline=None)
@given(IDS)
@example("^0/")
@example("^^")
@example("\u2028")
def test_every_id_survives_escaping_and_unescaping(instance_id: str) -> None:
    assert unescape_instance_id(escape_instance_id(instance_id)) == instance_id


@settings(deadline=None)
@given(IDS)
@example("/" * 256)
@example("\U0001f600" * 128)
@example("a\u2028b")
def test_a_key_has_only_characters_that_a_table_accepts(instance_id: str) -> None:
    """A row key adds a prefix with a time to the instance's key. Azure Tables allows 512 UTF-16 units."""
    key = f"a|2026-11-20T09:30:00.1234567Z|{instance_key(instance_id)}"
    assert utf16_length(key) <= 512
    assert not any(char in "/\\#?\u2028\u2029" or ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in key)


@settings(deadline=None)
@given(IDS, IDS)
@example("/" * 256, "/" * 255)
def test_different_ids_have_different_keys(first: str, second: str) -> None:
    assert (instance_key(first) == instance_key(second)) == (first == second)


@settings(deadline=None)
@given(IDS, st.integers(1, 64))
def test_an_instance_always_has_the_same_shard(instance_id: str, shards: int) -> None:
    assert shard_of(instance_id, shards) == shard_of(instance_id, shards) < shards


def test_the_shard_of_an_id_never_changes_between_releases() -> None:
    assert [shard_of(instance_id, 4) for instance_id in ("order-1", "order-2", "@counter@x", "ä")] == [0, 3, 0, 0]


def test_keys_sort_as_azure_tables_sorts_them() -> None:
    # U+FF5E comes before U+1F600 by code point, and after it by UTF-16 unit.
    assert sorted(["\uff5e", "\U0001f600"], key=ordinal_sort_key) == ["\U0001f600", "\uff5e"]
