"""Instance ids as table keys, escaped as the Azure Storage provider escapes them (PLATFORM: Task hubs on Azure
Storage), so that a row here and the provider's row have the same text in their keys."""

import hashlib
import re

_ESCAPES = {"^": "^^", "/": "^0", "\\": "^1", "#": "^2", "?": "^3"}
_UNESCAPES = {escaped[1]: character for character, escaped in _ESCAPES.items()}
_CONTROL_OFFSET = 0xC0
_LAST_CONTROL = 0x9F
_SPECIAL = re.compile(r"[\^/\\#?\x00-\x1f\x7f-\x9f]")
_ESCAPED = re.compile(r"\^(.)", re.DOTALL)

_MAX_KEY_UNITS = 472
"""UTF-16 units of an escaped id in a key. Azure Tables allows 512 (PLATFORM: Table storage); 40 are left for what
precedes the id."""
_LINE_SEPARATORS = re.compile("[\u2028\u2029]")
"""Azurite 3.37 fails to parse a transaction with one of these in a key (tried)."""


def escape_instance_id(instance_id: str) -> str:
    """The id in a form that Azure Tables allows in a key, with the escapes of the Azure Storage provider."""
    return _SPECIAL.sub(lambda match: _ESCAPES.get(match[0]) or "^" + chr(_CONTROL_OFFSET + ord(match[0])), instance_id)


def unescape_instance_id(escaped: str) -> str:
    """Undo `escape_instance_id`. A `^` that does not begin one of its escapes stays as it is."""

    def unescape_match(match: re.Match[str]) -> str:
        code = ord(match[1]) - _CONTROL_OFFSET
        return _UNESCAPES.get(match[1]) or (chr(code) if 0 <= code <= _LAST_CONTROL else match[0])

    return _ESCAPED.sub(unescape_match, escaped)


def instance_key(instance_id: str) -> str:
    """The text for the id in a row key: the escaped id, or `^h` and its SHA-256 where the escaped id is too long or has
    a line separator. An escaped id never contains `^h`, so two ids never have the same key."""
    escaped = escape_instance_id(instance_id)
    if utf16_length(escaped) > _MAX_KEY_UNITS or _LINE_SEPARATORS.search(escaped):
        return "^h" + hashlib.sha256(instance_id.encode()).hexdigest()
    return escaped


def shard_of(instance_id: str, shards: int) -> int:
    """The shard of an instance, from 0 to `shards` - 1. A hash of the id, so that all workers agree."""
    return int.from_bytes(hashlib.sha256(instance_id.encode()).digest()[:8], "big") % shards


def shard_name(shard: int) -> str:
    """The partition key of a shard."""
    return f"{shard:02d}"


FIRST_SHARD = shard_name(0)


def utf16_length(text: str) -> int:
    """The length as Azure Tables count it, in UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def ordinal_sort_key(key: str) -> bytes:
    """Sorts keys as Azure Tables does, by UTF-16 unit."""
    return key.encode("utf-16-be")
