"""Instance ids as table keys, escaped as the Azure Storage provider escapes them (PLATFORM: Task hubs on Azure
Storage), so that a row here and the provider's row are found under the same text."""

import hashlib
import re

_ESCAPES = {"^": "^^", "/": "^0", "\\": "^1", "#": "^2", "?": "^3"}
_UNESCAPES = {escaped[1]: plain for plain, escaped in _ESCAPES.items()}
_CONTROL_OFFSET = 0xC0
_LAST_CONTROL = 0x9F
_SPECIAL = re.compile(r"[\^/\\#?\x00-\x1f\x7f-\x9f]")
_ESCAPED = re.compile(r"\^(.)", re.DOTALL)

# Azure Tables takes keys of 512 UTF-16 units (PLATFORM: Table storage); 40 are left for what stands before the id.
_MAX_KEY_UNITS = 472
# Line separators inside a key break Azurite's reading of a transaction (3.37, run).
_LINE_SEPARATORS = re.compile("[\u2028\u2029]")


def escape_instance_id(instance_id: str) -> str:
    return _SPECIAL.sub(lambda match: _ESCAPES.get(match[0]) or "^" + chr(_CONTROL_OFFSET + ord(match[0])), instance_id)


def unescape_instance_id(escaped: str) -> str:
    """The id. What is no escape of the provider's stays as it is."""

    def plain(match: re.Match[str]) -> str:
        code = ord(match[1]) - _CONTROL_OFFSET
        return _UNESCAPES.get(match[1]) or (chr(code) if 0 <= code <= _LAST_CONTROL else match[0])

    return _ESCAPED.sub(plain, escaped)


def instance_key(instance_id: str) -> str:
    """The id's text in a row key: escaped, or `^h` and a SHA-256 where that is too long or unsafe. The provider's
    escape never gives `^h`, so the two forms cannot meet."""
    escaped = escape_instance_id(instance_id)
    if utf16_length(escaped) > _MAX_KEY_UNITS or _LINE_SEPARATORS.search(escaped):
        return "^h" + hashlib.sha256(instance_id.encode()).hexdigest()
    return escaped


def shard_of(instance_id: str, shards: int) -> int:
    """The partition of an instance: the same on every worker and Python version."""
    return int.from_bytes(hashlib.sha256(instance_id.encode()).digest()[:8], "big") % shards


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def ordinal_sort_key(key: str) -> bytes:
    """Sorts as Azure Tables does: by UTF-16 unit."""
    return key.encode("utf-16-be")
