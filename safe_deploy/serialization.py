"""Results as JSON or YAML in printable ASCII, which every log encoding can hold. Nothing is truncated.

Text of others stays inside quotes, where everything that a terminal or a CI system could act on is escaped.
"""

import json
import re
from typing import Any

import yaml

from safe_deploy.options import OutputFormat

_PLAIN_SCALAR = re.compile(r"[A-Za-z][A-Za-z0-9_-]+")
"""Text that YAML may have without quotes, unless it is a word such as `yes`. Everything else is quoted, because parsers
of YAML 1.1 and 1.2 do not agree which text is a number, a time or a Boolean."""


def serialize(result: Any, output: OutputFormat) -> str:
    """The result in a format other than a table, with a line break at its end."""
    return format_yaml(result) if output is OutputFormat.YAML else f"{format_json(result)}\n"


def format_json(result: Any) -> str:
    """The result as JSON.

    No line starts with `::`. Two hashes, which could start a command, occur only inside strings, and are escaped there.
    """
    return json.dumps(result, indent=2).replace("##", "#\\u0023").replace("\x7f", "\\u007f")


def format_yaml(result: Any) -> str:
    """The result as YAML, each text on one line.

    No line starts with `::`. Two hashes, which could start a command, occur only inside quotes, and are escaped there.
    """
    document = yaml.dump(
        result, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=False, width=float("inf")
    )
    return document.replace("##", "#\\x23")


class _Dumper(yaml.SafeDumper):
    """Writes YAML without anchors and aliases. Text that does not match `_PLAIN_SCALAR` is in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always True: an object that occurs twice is written twice, because simple parsers cannot read aliases."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """The text without quotes if it matches `_PLAIN_SCALAR`, otherwise in double quotes, which keep it on one line.

    PyYAML itself quotes a plain text that YAML would read as another type, such as `yes`.
    """
    style = None if _PLAIN_SCALAR.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_multi_representer(str, _represent_text)  # members of a StrEnum
