"""Members of a JSON text are set, and everything else stays as it is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_deploy.setup.json_text import JsonTextError, find_value, parse_json_text, set_value

_NAMES = st.text("abc", min_size=1, max_size=2)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(_NAMES, _VALUES, max_size=4)
_INDENTATIONS = st.sampled_from([None, 0, 2, 4, "\t"])


@given(_OBJECTS, _INDENTATIONS, st.lists(_NAMES, min_size=1, max_size=3), _VALUES)
def test_setting_a_value_is_the_same_as_setting_it_in_the_parsed_object(
    document: dict[str, object], indent: int | str | None, path: list[str], value: object
) -> None:
    """Only a path through a value that is no object is refused."""
    text = json.dumps(document, indent=indent)
    expected = json.loads(text)
    parent = expected
    for name in path[:-1]:
        parent = parent.setdefault(name, {})
        if not isinstance(parent, dict):
            with pytest.raises(JsonTextError):
                set_value(text, path, value)
            return
    parent[path[-1]] = value
    changed = set_value(text, path, value)
    assert json.loads(changed) == expected
    assert find_value(changed, path) == value


@given(_OBJECTS, _INDENTATIONS)
def test_a_text_is_parsed_as_the_standard_library_parses_it(
    document: dict[str, object], indent: int | str | None
) -> None:
    assert parse_json_text(json.dumps(document, indent=indent)).value == document


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", '{\n  "a": 1\n}'),
        ('{"b": 2}', '{"b": 2, "a": 1}'),
        ('{\n    "b": 2\n}\n', '{\n    "b": 2,\n    "a": 1\n}\n'),
        ('{\n\t"b": 2,\n}', '{\n\t"b": 2,\n\t"a": 1\n}'),
        ('{\r\n  "b": 2\r\n}', '{\r\n  "b": 2,\r\n  "a": 1\r\n}'),
        ('\ufeff{\n  "b": 2\n}', '\ufeff{\n  "b": 2,\n  "a": 1\n}'),
        (
            '{\n  "b": 2 // the end, {\n  /* and\n  more */\n}',
            '{\n  "b": 2, // the end, {\n  /* and\n  more */\n  "a": 1\n}',
        ),
        ("{\n  // nothing yet\n}", '{\n  // nothing yet\n  "a": 1\n}'),
        ('{\n  "A": 0, // as the host spells it\n  "b": 2\n}', '{\n  "A": 1, // as the host spells it\n  "b": 2\n}'),
        ('{\n  "b": 2 }', '{\n  "b": 2,\n  "a": 1\n}'),
        ('{\n  "b": "// no comment"\n}', '{\n  "b": "// no comment",\n  "a": 1\n}'),
    ],
)
def test_a_member_is_added_in_the_style_of_the_text(before: str, after: str) -> None:
    assert set_value(before, ["a"], 1) == after


def test_objects_are_indented_as_the_others_and_lists_are_on_one_line() -> None:
    text = set_value('{\n    "x": {\n        "y": 1\n    }\n}', ["x", "z"], {"list": [1, 2], "text": "ä"})
    assert text == (
        '{\n    "x": {\n        "y": 1,\n        "z": {\n            "list": [1, 2],\n            "text": "ä"\n'
        "        }\n    }\n}"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("{", 1),
        ('{\n"a": \n}', 3),
        ('{"a" 1}', 1),
        ('{"a": 1 "b": 2}', 1),
        ('{"a": wrong}', 1),
        ("[1 2]", 1),
        ("{} {}", 1),
        ("{1: 2}", 1),
        ('{\n"a": "\n"}', 2),
    ],
)
def test_a_text_that_is_not_json_is_refused_with_the_line(text: str, line: int) -> None:
    with pytest.raises(JsonTextError, match=f"line {line} "):
        parse_json_text(text)


def test_a_path_through_a_value_that_is_no_object_is_refused() -> None:
    with pytest.raises(JsonTextError, match="x is no object"):
        set_value('{"x": null}', ["x", "y"], 1)
    with pytest.raises(JsonTextError, match="the text is no object"):
        set_value("[]", ["x"], 1)
