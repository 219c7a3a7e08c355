"""Compares what a command printed with what its page says.

A JSON block is a part of the real response: members may be left out, `"…"` stands for any value, and a list that ends
with `"…"` may be longer. In a text block each line must appear, in this order, and `…` stands for any text.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tests.documents.markdown_page import ExpectedOutput

ANYTHING = "…"


def find_mismatches(expected: Sequence[ExpectedOutput], printed: str, errors: str = "") -> list[str]:
    """What the page says and the commands did not print; empty if everything matches.

    `printed` is their stdout. Text blocks may also show `errors`, their stderr, after it.
    """
    differences: list[str] = []
    json_blocks = [json.loads(output.body) for output in expected if output.language == "json"]
    if json_blocks:
        documents = parse_documents(printed)
        if len(documents) != len(json_blocks):
            differences.append(f"the page shows {len(json_blocks)} JSON answers, the commands printed {len(documents)}")
        for block, document in zip(json_blocks, documents, strict=False):
            differences += _find_json_mismatches(block, document, "$")
    for output in expected:
        if output.language == "text":
            differences += _find_text_mismatches(output.body, f"{printed}\n{errors}")
    return differences


def parse_documents(printed: str) -> list[Any]:
    """The JSON documents that were printed one after the other."""
    documents, decoder, rest = [], json.JSONDecoder(), printed.strip()
    while rest:
        try:
            document, end = decoder.raw_decode(rest)
        except ValueError:
            raise AssertionError(f"this is not JSON: {rest[:200]}") from None
        documents.append(document)
        rest = rest[end:].strip()
    return documents


def _find_json_mismatches(expected: Any, actual: Any, path: str) -> Iterator[str]:
    """How actual JSON differs from what a page shows. Members that the page does not show may have any value. `path` is
    where both are in the document."""
    if expected == ANYTHING:
        return
    if isinstance(expected, dict) and isinstance(actual, dict):
        for name, value in expected.items():
            if name in actual:
                yield from _find_json_mismatches(value, actual[name], f"{path}.{name}")
            else:
                yield f"{path} has no member {name}"
    elif isinstance(expected, list) and isinstance(actual, list):
        items = expected[:-1] if expected and expected[-1] == ANYTHING else expected
        if len(items) > len(actual) or (items is expected and len(items) < len(actual)):
            yield f"{path} has {len(actual)} items: {actual}"
        for index, (value, other) in enumerate(zip(items, actual, strict=False)):
            yield from _find_json_mismatches(value, other, f"{path}[{index}]")
    elif isinstance(expected, str) and isinstance(actual, str):
        if not _build_text_pattern(expected).fullmatch(actual):
            yield f"{path} is {actual!r}, not {expected!r}"
    elif expected != actual:
        yield f"{path} is {actual!r}, not {expected!r}"


def _find_text_mismatches(expected: str, printed: str) -> Iterator[str]:
    """The lines that a page shows and that were not printed in this order."""
    lines = iter([_remove_widths(line) for line in printed.splitlines()])
    for line in expected.splitlines():
        pattern = _build_text_pattern(_remove_widths(line))
        if line.strip() not in ("", ANYTHING) and not any(pattern.fullmatch(other) for other in lines):
            yield f"the line {line!r} was not printed, or not in this order"


def _remove_widths(line: str) -> str:
    """A line with one space between its words, and a rule of one character: a table is as wide as its values."""
    return re.sub("─+", "─", " ".join(line.split()))


def _build_text_pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split(ANYTHING))), re.DOTALL)
