"""Evaluates the queries of `az --query` (JMESPath) as far as pipelines use them."""

from __future__ import annotations

import json
import re

from tests.pipelines.fake_az_options import AzError

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from typing import Any


def evaluate_query(query: str, data: Any) -> Any:
    """The result of a query on JSON data. Raises AzError if the query uses what this module does not support."""
    for step in _split_query(query, "|"):
        value = None
        for choice in _split_query(step, "||"):
            value = _evaluate_path(choice.strip(), data)
            if _is_true(value):
                break
        data = value
    return data


def _split_query(text: str, separator: str) -> list[str]:
    """Split a query at separators that are outside of brackets and quotes."""
    parts, start, depth = [], 0, 0
    for token in re.finditer(r"'[^']*'|[\[{(]|[\]})]|\|+|&&|==|[,:]", text):
        depth += (token[0] in "[{(") - (token[0] in "]})")
        if token[0] == separator and depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def _evaluate_path(path: str, data: Any) -> Any:
    """The result of a query without `|` and `||`, such as `[0].name`."""
    path = path.removeprefix(".")
    if not path or data is None:
        return data
    if member := re.match(r"[A-Za-z_]\w*", path):
        return _evaluate_path(path[member.end() :], data.get(member[0]) if isinstance(data, dict) else None)
    if quoted := re.match(r'"([^"]+)"', path):
        return _evaluate_path(path[quoted.end() :], data.get(quoted[1]) if isinstance(data, dict) else None)
    if index := re.match(r"\[(\d+)\]", path):
        items = data if isinstance(data, list) else []
        return _evaluate_path(path[index.end() :], items[int(index[1])] if int(index[1]) < len(items) else None)
    if projection := re.match(r"\[(?:\?((?:'[^']*'|[^\]'])*))?\]", path):
        if not isinstance(data, list):
            return None
        chosen = [item for item in data if projection[1] is None or _fulfills(projection[1], item)]
        values = [_evaluate_path(path[projection.end() :], item) for item in chosen]
        return [item for item in values if item is not None]
    if path.startswith("{") and path.endswith("}"):
        pairs = [_split_query(pair, ":") for pair in _split_query(path[1:-1], ",")]
        return {name.strip(): evaluate_query(query, data) for name, query in pairs}
    raise AzError(f"argument --query: invalid jmespath_type value: '{path}'", 2)


def _fulfills(condition: str, item: Any) -> bool:
    """Whether an item fulfills the condition of a filter: comparisons of values with strings, connected by `&&`."""
    for comparison in _split_query(condition, "&&"):
        left, right = (side.strip() for side in _split_query(comparison, "=="))
        converted = re.fullmatch(r"to_string\((.*)\)", left)
        value = evaluate_query(converted[1] if converted else left, item)
        if converted and not isinstance(value, str):
            value = json.dumps(value)
        if value != right.strip("'"):
            return False
    return True


def _is_true(value: Any) -> bool:
    """Whether a value counts as true. In JMESPath, numbers do, also 0."""
    return bool(value) or (isinstance(value, (int, float)) and not isinstance(value, bool))
