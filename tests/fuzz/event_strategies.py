"""Strategies for what may come to PostEvents: events that are good, events that are bad, and events of which only the
server can say which they are."""

import base64
import json
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from tests import recordings
from tests.builders import cloud_event, event

PLACEHOLDER_HUB = "fuzzHub"
"""Stands in generated events for the hub of the example; `with_hub` puts that in."""

MAX_INSTANCE_ID_LENGTH = 256
STATUSES = sorted(RuntimeStatus)
SAMPLES = [
    *(
        one
        for name in ("cloudevent-running", "validation")
        for content in [json.loads((Path(__file__).parent.parent / "samples" / f"{name}.json").read_text())]
        for one in (content if isinstance(content, list) else [content])
    ),
    *(
        one
        for name in (*recordings.DELIVERIES, "continue-as-new")
        for one in recordings.recorded_delivery(name, PLACEHOLDER_HUB)
    ),
]

# --- any JSON ---

ANY_TEXT = st.text(st.characters(), max_size=30)
"""With lone surrogates, as \\ud800 in JSON gives them."""
ODD_TEXT = st.sampled_from(
    ["", "\x00", "\ud800", "\udfff\ud800", "\u2028", "\u2029", "\ufeff", "\ufffe", "\U0010ffff", "e\u0301", "^h", "a|"]
)
LONG_INTEGERS = st.integers(1, 990).map(lambda count: int("9" * count))
NUMBERS = st.one_of(
    st.integers(), LONG_INTEGERS, st.floats(), st.sampled_from([0, -1, 1e308, -0.0, 2**63, -(2**63) - 1])
)


def nested(depth: int, inner: Any) -> Any:
    """`inner` in so many arrays and objects."""
    for level in range(depth):
        inner = [inner] if level % 2 else {"data": inner}
    return inner


SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, ANY_TEXT, ODD_TEXT)
SHALLOW_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
JSON_VALUES = SHALLOW_JSON | st.builds(nested, st.integers(1, 300), SCALARS)
"""Any depth up to 300; deeper than the parser goes is a test of its own."""

# --- good events ---


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


_VALID_CHARACTERS = st.characters(exclude_categories=["Cs"])
INSTANCE_IDS = st.one_of(
    st.sampled_from(["order/1", "order#2", "a?b", "^h", "a|b", "@counter@basket", "\u2028", "\x00", "é", "\U0001f4e6"]),
    st.text(_VALID_CHARACTERS, min_size=1, max_size=40),
    # As long as they may be, of what takes the most room in a key.
    st.builds(
        lambda sign, count: sign * (count // utf16_length(sign)),
        _VALID_CHARACTERS,
        st.integers(200, MAX_INSTANCE_ID_LENGTH),
    ),
)


def _format_timestamp(moment: datetime, digits: str, ending: str, separator: str) -> str:
    return f"{moment.strftime('%Y-%m-%d')}{separator}{moment.strftime('%H:%M:%S')}{digits and '.' + digits}{ending}"


TIMESTAMPS = st.builds(
    _format_timestamp,
    # An offset moves it by up to a day: that still lies between 2017 and now.
    st.datetimes(datetime(2017, 1, 3), datetime(2026, 11, 1), timezones=st.just(UTC)),  # noqa: DTZ001 (has a zone)
    st.text("0123456789", max_size=12),
    st.sampled_from(["Z", "z", "", "+00:00", "-11:30", "+23:59"]),
    st.sampled_from(["T", "t", " "]),
)


def _with_base64_data(whole: dict[str, Any]) -> dict[str, Any]:
    """A CloudEvent that carries its data encoded."""
    rest = {name: value for name, value in whole.items() if name != "data"}
    return rest | {"data_base64": base64.b64encode(json.dumps(whole["data"]).encode()).decode()}


@st.composite
def valid_events(draw: st.DrawFn, instance_ids: st.SearchStrategy[str] = INSTANCE_IDS) -> dict[str, Any]:
    """Events that must be recorded, in any schema, with whatever else may stand in them."""
    cloud = draw(st.booleans())
    made = (cloud_event if cloud else event)(PLACEHOLDER_HUB, draw(instance_ids), draw(st.sampled_from(STATUSES)))
    made["time" if cloud else "eventTime"] = draw(TIMESTAMPS)
    for name in draw(st.sets(st.sampled_from(["functionName", "reason", "input"]))):
        made["data"][name] = draw(SHALLOW_JSON)
    for name in draw(st.sets(st.sampled_from(["id", "subject", "dataVersion", "source", "topic", "extra"]))):
        made[name] = draw(SHALLOW_JSON)
    return _with_base64_data(made) if cloud and draw(st.booleans()) else made


# --- bad events ---

Values = st.SearchStrategy[Any]

INVALID_HUB_NAMES: Values = st.sampled_from(
    [None, 7, "", "ab", "9hub", "h-1", "hüb", "h" * 46, "hub\n", [], {}, "\ud800hub"]
)
INVALID_INSTANCE_IDS: Values = st.sampled_from(
    [None, "", 7, [], {}, True, "x" * (MAX_INSTANCE_ID_LENGTH + 1), "\U0001f4e6" * 129, "a\ud800", "\udc00"]
)
INVALID_STATUSES: Values = st.sampled_from(
    [None, "", "running", "Done", 0, 1.5, True, [], {}, ["Running"], "Running ", "\ud800"]
)
INVALID_TIMES: Values = st.sampled_from(
    [
        *(None, "", 0, 1_700_000_000, [], {}, "now", "2026-01-01", "2026-02-30T00:00:00Z", "2016-12-31T23:59:59Z"),
        *("9999-12-31T23:59:59.9999999Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
        # Digits, but not those of RFC 3339.
        "\u0662026-01-01T00:00:00Z",
    ]
)
INVALID_EVENT_TYPES: Values = st.sampled_from(
    [None, "", "orchestratorevent", "Other", 7, [], {}, "orchestratorEvent\n", "\ud800"]
)
INVALID_DATA: Values = st.sampled_from([None, 7, "text", [], [{}]])
NON_EVENTS = st.one_of(NUMBERS, ANY_TEXT, ODD_TEXT, st.none(), st.booleans(), st.lists(SHALLOW_JSON, max_size=3))


@st.composite
def invalid_events(draw: st.DrawFn) -> Any:
    """Events that must go to quarantine, each for one reason at least."""
    if draw(st.booleans()):
        return draw(NON_EVENTS)
    cloud = draw(st.booleans())
    made = (cloud_event if cloud else event)(PLACEHOLDER_HUB)
    if draw(st.integers(0, 4)) == 0:
        made["data"] = draw(INVALID_DATA)
        return made
    place, name, values = draw(
        st.sampled_from(
            [
                (made["data"], "hubName", INVALID_HUB_NAMES),
                (made["data"], "instanceId", INVALID_INSTANCE_IDS),
                (made["data"], "runtimeStatus", INVALID_STATUSES),
                (made, "time" if cloud else "eventTime", INVALID_TIMES),
                (made, "type" if cloud else "eventType", INVALID_EVENT_TYPES),
            ]
        )
    )
    value = draw(values)
    if value is None and draw(st.booleans()):
        del place[name]
    else:
        place[name] = value
    return _with_base64_data(made) if cloud and draw(st.booleans()) else made


# --- real ones, changed ---


def _containers_with_keys(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value with every key of it."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        found += [(value, name) for name in value]
    elif isinstance(value, list):
        found += [(value, number) for number in range(len(value))]
    return found + [place for container, key in tuple(found) for place in _containers_with_keys(container[key])]


@st.composite
def mutated_samples(draw: st.DrawFn) -> Any:
    """What the extension and Event Grid send, with up to four places changed."""
    made = deepcopy(draw(st.sampled_from(SAMPLES)))
    if "hubName" in made["data"]:
        made["data"]["hubName"] = PLACEHOLDER_HUB
    for _ in range(draw(st.integers(0, 4))):
        places = _containers_with_keys(made)
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["remove", "replace", "borrow", "wrap", "add", "text"])):
            case "remove":
                del container[key]
            case "replace":
                container[key] = draw(JSON_VALUES)
            case "borrow":
                other, its = draw(st.sampled_from(places))
                if its in (other if isinstance(other, dict) else range(len(other))):
                    container[key] = deepcopy(other[its])
            case "wrap":
                container[key] = [container[key]]
            case "add" if isinstance(container, dict):
                container[draw(ANY_TEXT | st.sampled_from(["specversion", "data_base64", "type", "time"]))] = draw(
                    SCALARS
                )
            case _:
                container[key] = str(container[key]) + draw(ANY_TEXT)
    return made


ANY_EVENTS = st.one_of(mutated_samples(), valid_events(), invalid_events(), JSON_VALUES)


def with_hub(value: Any, hub: str) -> Any:
    """A generated event with this hub's name, wherever the stand-in is."""
    if value == PLACEHOLDER_HUB:
        return hub
    if isinstance(value, dict):
        return {
            name: _with_hub_in_base64(inner, hub) if name == "data_base64" else with_hub(inner, hub)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [with_hub(inner, hub) for inner in value]
    return value


def _with_hub_in_base64(encoded: Any, hub: str) -> Any:
    if not isinstance(encoded, str) or not encoded.isascii():
        return encoded
    try:
        content = base64.b64decode(encoded, validate=True)
    except ValueError:
        return encoded
    return base64.b64encode(content.replace(PLACEHOLDER_HUB.encode(), hub.encode())).decode()
