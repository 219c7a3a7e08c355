"""Changes members of a JSON text and keeps everything else: order, indentation, line breaks and comments.

It accepts what the Functions host accepts in host.json: comments, commas after the last member, and names of members in
any case. Json of the standard library accepts none of these, and would format the text anew.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_BLANK = re.compile(r"(?:[\s\ufeff]+|//[^\n\r]*|/\*.*?\*/)*", re.DOTALL)
"""What may stand between two tokens: white space, comments, and the byte order mark of a file."""

_SCALAR = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"|[^\s,:\[\]{}"/]+')


class JsonTextError(ValueError):
    """The text is not JSON. The message names the line."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object, with the place of its name in the text."""

    name: str
    name_start: int
    value: "Node"


@dataclass(frozen=True, slots=True)
class Node:
    """A value, with its place in the text: `text[start:end]`. An object also has its members."""

    start: int
    end: int
    value: Any
    members: tuple[Member, ...] | None = None

    def find(self, name: str) -> "Node | None":
        """The member with this name, compared without case. Of several the last one counts."""
        values = [member.value for member in self.members or () if member.name.lower() == name.lower()]
        return values[-1] if values else None


def parse_json_text(text: str) -> Node:
    """The value of a text. Raises JsonTextError."""
    try:
        return _Parser(text).parse()
    except RecursionError:
        raise JsonTextError("its values are nested too deeply") from None


def find_value(text: str, path: Sequence[str]) -> Any:
    """The value at a path of names, or None if a part of the path is missing. Raises JsonTextError."""
    node: Node | None = parse_json_text(text)
    for name in path:
        node = node.find(name) if node is not None else None
    return None if node is None else node.value


def set_value(text: str, path: Sequence[str], value: Any) -> str:
    """The text with this value at a path of names. Objects on the way that are missing are added.

    Raises JsonTextError, also if the path leads through a value that is no object.
    """
    node = parse_json_text(text)
    style = _Style.of(text, node)
    for depth, name in enumerate(path):
        if node.members is None:
            raise JsonTextError(f"{'.'.join(path[:depth]) or 'the text'} is no object")
        member = node.find(name)
        if member is None:
            added = value
            for inner_name in reversed(path[depth + 1 :]):
                added = {inner_name: added}
            return _add_member(text, node, name, added, style)
        node = member
    indent = _indent_of_line(text, node.start)
    return text[: node.start] + style.format(value, indent) + text[node.end :]


@dataclass(frozen=True, slots=True)
class _Style:
    """How a text is written: its line break, empty if it is all on one line, and the indentation of one level."""

    line_break: str
    unit: str

    @classmethod
    def of(cls, text: str, root: Node) -> "_Style":
        """The style of a text, by its first member."""
        line_break = "\r\n" if "\r\n" in text else "\n"
        if not root.members:
            return cls(line_break, "  ")
        if "\n" not in text[root.start : root.end]:
            return cls("", "")
        return cls(line_break, _indent_of_line(text, root.members[0].name_start) or "  ")

    def format(self, value: Any, indent: str) -> str:
        """A value as JSON. Objects have a line for each member, lists are on one line."""
        if not isinstance(value, dict) or not value:
            return json.dumps(value, ensure_ascii=False)
        if not self.line_break:
            return json.dumps(value, ensure_ascii=False)
        inner = indent + self.unit
        lines = [f"{inner}{json.dumps(name)}: {self.format(member, inner)}" for name, member in value.items()]
        return f"{{{self.line_break}{f',{self.line_break}'.join(lines)}{self.line_break}{indent}}}"


def _add_member(text: str, node: Node, name: str, value: Any, style: _Style) -> str:
    """The text with a member added at the end of an object."""
    assert node.members is not None
    closing_brace = node.end - 1
    content_end = len(text[:closing_brace].rstrip())
    if not node.members:
        outer = _indent_of_line(text, node.start)
        head, tail = text[:content_end], text[closing_brace:]
        if not style.line_break:
            return f"{head}{json.dumps(name)}: {style.format(value, outer)}{tail}"
        inner = outer + style.unit
        member = f"{inner}{json.dumps(name)}: {style.format(value, inner)}"
        return f"{head}{style.line_break}{member}{style.line_break}{outer}{tail}"
    last_end = node.members[-1].value.end
    comma_at = _skip_blanks(text, last_end)
    has_comma = text[comma_at] == ","
    before, between = text[:last_end], text[last_end:content_end]
    comma = "" if has_comma else ","
    if not style.line_break or "\n" not in text[node.start : node.end]:
        inline = _Style("", "")
        return f"{before}{comma}{between} {json.dumps(name)}: {inline.format(value, '')}{text[content_end:]}"
    inner = _indent_of_line(text, node.members[0].name_start)
    member = f"{inner}{json.dumps(name)}: {style.format(value, inner)}"
    rest = text[content_end:]
    if "\n" not in rest:
        rest = style.line_break + _indent_of_line(text, node.start) + rest.lstrip()
    return f"{before}{comma}{between}{style.line_break}{member}{rest}"


def _indent_of_line(text: str, position: int) -> str:
    """The white space at the begin of the line that has this position."""
    line = text[text.rfind("\n", 0, position) + 1 : position].lstrip("\ufeff")
    return line[: len(line) - len(line.lstrip())]


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    assert match is not None, "the pattern matches an empty text"
    return match.end()


class _Parser:
    """A recursive parser that keeps the places of values."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def parse(self) -> Node:
        """The value that is the whole text."""
        node = self._parse_value()
        self._skip()
        if self._position < len(self._text):
            raise self._error()
        return node

    def _parse_value(self) -> Node:
        self._skip()
        character = self._text[self._position : self._position + 1]
        if character == "{":
            return self._parse_object()
        if character == "[":
            return self._parse_list()
        start = self._position
        value = self._parse_scalar()
        return Node(start, self._position, value)

    def _parse_object(self) -> Node:
        start = self._position
        self._position += 1
        members: list[Member] = []
        while not self._accept("}"):
            self._skip()
            name_start = self._position
            name = self._parse_scalar()
            if not isinstance(name, str) or not self._accept(":"):
                raise self._error()
            members.append(Member(name, name_start, self._parse_value()))
            if not self._accept(","):
                if not self._accept("}"):
                    raise self._error()
                break
        value = {member.name: member.value.value for member in members}
        return Node(start, self._position, value, tuple(members))

    def _parse_list(self) -> Node:
        start = self._position
        self._position += 1
        values: list[Any] = []
        while not self._accept("]"):
            values.append(self._parse_value().value)
            if not self._accept(","):
                if not self._accept("]"):
                    raise self._error()
                break
        return Node(start, self._position, values)

    def _parse_scalar(self) -> Any:
        match = _SCALAR.match(self._text, self._position)
        if match is None:
            raise self._error()
        try:
            value = json.loads(match[0])
        except ValueError:
            raise self._error() from None
        self._position = match.end()
        return value

    def _accept(self, character: str) -> bool:
        """Whether the next token is this character, which is then consumed."""
        self._skip()
        if not self._text.startswith(character, self._position):
            return False
        self._position += 1
        return True

    def _skip(self) -> None:
        self._position = _skip_blanks(self._text, self._position)

    def _error(self) -> JsonTextError:
        return JsonTextError(f"line {self._text.count(chr(10), 0, self._position) + 1} is not valid JSON")
