"""Hypothesis strategies for deliveries to PostEvents: valid events, invalid events, and events that may be either."""

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
"""The task hub in generated events. `with_hub` replaces it with the task hub of an example."""

MAX_INSTANCE_ID_LENGTH = 256
STATUSES = sorted(RuntimeStatus)


def _read_sample(name: str) -> list[Any]:
    """The events of a sample delivery."""
    sample = json.loads((Path(__file__).parent.parent / "samples" / f"{name}.json").read_text())
    return sample if isinstance(sample, list) else [sample]


SAMPLES = [
    *(sample for name in ("cloudevent-running", "validation") for sample in _read_sample(name)),
    *(
        recorded
        for name in (*recordings.DELIVERIES, "continue-as-new")
        for recorded in recordings.recorded_delivery(name, PLACEHOLDER_HUB)
    ),
]
"""Events as Event Grid and the extension send them."""

# --- any JSON ---

ANY_TEXT = st.text(st.characters(), max_size=30)
"""Text with any characters, also lone surrogates, which JSON can contain as \\ud800."""
ODD_TEXT = st.sampled_from(
    ["", "\x00", "\ud800", "\udfff\ud800", "\u2028", "\u2029", "\ufeff", "\ufffe", "\U0010ffff", "e\u0301", "^h", "a|"]
)
LONG_INTEGERS = st.integers(1, 990).map(lambda count: int("9" * count))
NUMBERS = st.one_of(
    st.integers(), LONG_INTEGERS, st.floats(), st.sampled_from([0, -1, 1e308, -0.0, 2**63, -(2**63) - 1])
)


def nest(depth: int, value: Any) -> Any:
    """Put a value inside of `depth` arrays and objects."""
    for level in range(depth):
        value = [value] if level % 2 else {"data": value}
    return value


SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, ANY_TEXT, ODD_TEXT)
SHALLOW_JSON = st.recursive(
    SCALARS,
    lambda members: st.lists(members, max_size=4) | st.dictionaries(ANY_TEXT, members, max_size=4),
    max_leaves=12,
)
JSON_VALUES = SHALLOW_JSON | st.builds(nest, st.integers(1, 300), SCALARS)
"""JSON that is nested up to 300 levels. A test of the event parser tries deeper levels."""

# --- valid events ---


def utf16_length(text: str) -> int:
    """The length of the text in UTF-16 code units, in which .NET counts."""
    return len(text.encode("utf-16-le")) // 2


_VALID_CHARACTERS = st.characters(exclude_categories=["Cs"])
INSTANCE_IDS = st.one_of(
    st.sampled_from(["order/1", "order#2", "a?b", "^h", "a|b", "@counter@basket", "\u2028", "\x00", "é", "\U0001f4e6"]),
    st.text(_VALID_CHARACTERS, min_size=1, max_size=40),
    # Up to the maximum length, of one character, which may take several in a key.
    st.builds(
        lambda character, length: character * (length // utf16_length(character)),
        _VALID_CHARACTERS,
        st.integers(200, MAX_INSTANCE_ID_LENGTH),
    ),
)


def _format_timestamp(moment: datetime, digits: str, offset: str, separator: str) -> str:
    """A timestamp in one of the spellings that RFC 3339 allows, and in some that it does not."""
    return f"{moment.strftime('%Y-%m-%d')}{separator}{moment.strftime('%H:%M:%S')}{digits and '.' + digits}{offset}"


TIMESTAMPS = st.builds(
    _format_timestamp,
    # An offset changes the time by up to a day, so all times stay between 2017 and now.
    st.datetimes(datetime(2017, 1, 3), datetime(2026, 11, 1), timezones=st.just(UTC)),  # noqa: DTZ001 (has a zone)
    st.text("0123456789", max_size=12),
    st.sampled_from(["Z", "z", "", "+00:00", "-11:30", "+23:59"]),
    st.sampled_from(["T", "t", " "]),
)


def _with_base64_data(cloud: dict[str, Any]) -> dict[str, Any]:
    """The CloudEvent with its data in Base64."""
    others = {name: value for name, value in cloud.items() if name != "data"}
    return others | {"data_base64": base64.b64encode(json.dumps(cloud["data"]).encode()).decode()}


@st.composite
def valid_events(draw: st.DrawFn, instance_ids: st.SearchStrategy[str] = INSTANCE_IDS) -> dict[str, Any]:
    """Events that must be recorded, in both schemas, with optional and unknown members."""
    is_cloud_event = draw(st.booleans())
    generated = (cloud_event if is_cloud_event else event)(
        PLACEHOLDER_HUB, draw(instance_ids), draw(st.sampled_from(STATUSES))
    )
    generated["time" if is_cloud_event else "eventTime"] = draw(TIMESTAMPS)
    for name in draw(st.sets(st.sampled_from(["functionName", "reason", "input"]))):
        generated["data"][name] = draw(SHALLOW_JSON)
    for name in draw(st.sets(st.sampled_from(["id", "subject", "dataVersion", "source", "topic", "extra"]))):
        generated[name] = draw(SHALLOW_JSON)
    return _with_base64_data(generated) if is_cloud_event and draw(st.booleans()) else generated


# --- invalid events ---

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
        # An Arabic digit, which RFC 3339 does not allow.
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
    """Events that must go to quarantine, for one reason or several."""
    if draw(st.booleans()):
        return draw(NON_EVENTS)
    is_cloud_event = draw(st.booleans())
    generated = (cloud_event if is_cloud_event else event)(PLACEHOLDER_HUB)
    if draw(st.integers(0, 4)) == 0:
        generated["data"] = draw(INVALID_DATA)
        return generated
    container, name, values = draw(
        st.sampled_from(
            [
                (generated["data"], "hubName", INVALID_HUB_NAMES),
                (generated["data"], "instanceId", INVALID_INSTANCE_IDS),
                (generated["data"], "runtimeStatus", INVALID_STATUSES),
                (generated, "time" if is_cloud_event else "eventTime", INVALID_TIMES),
                (generated, "type" if is_cloud_event else "eventType", INVALID_EVENT_TYPES),
            ]
        )
    )
    value = draw(values)
    if value is None and draw(st.booleans()):
        del container[name]
    else:
        container[name] = value
    return _with_base64_data(generated) if is_cloud_event and draw(st.booleans()) else generated


# --- samples with changes ---


def _containers_with_keys(value: Any) -> list[tuple[Any, Any]]:
    """Every object and array in a value, with each of its keys or indexes."""
    keys: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        keys += [(value, name) for name in value]
    elif isinstance(value, list):
        keys += [(value, index) for index in range(len(value))]
    return keys + [inner for container, key in tuple(keys) for inner in _containers_with_keys(container[key])]


@st.composite
def mutated_samples(draw: st.DrawFn) -> Any:
    """Samples with up to four changes."""
    generated = deepcopy(draw(st.sampled_from(SAMPLES)))
    if "hubName" in generated["data"]:
        generated["data"]["hubName"] = PLACEHOLDER_HUB
    for _ in range(draw(st.integers(0, 4))):
        keys = _containers_with_keys(generated)
        if not keys:
            break
        container, key = draw(st.sampled_from(keys))
        match draw(st.sampled_from(["remove", "replace", "borrow", "wrap", "add", "text"])):
            case "remove":
                del container[key]
            case "replace":
                container[key] = draw(JSON_VALUES)
            case "borrow":
                other, other_key = draw(st.sampled_from(keys))
                if other_key in (other if isinstance(other, dict) else range(len(other))):
                    container[key] = deepcopy(other[other_key])
            case "wrap":
                container[key] = [container[key]]
            case "add" if isinstance(container, dict):
                container[draw(ANY_TEXT | st.sampled_from(["specversion", "data_base64", "type", "time"]))] = draw(
                    SCALARS
                )
            case _:
                container[key] = str(container[key]) + draw(ANY_TEXT)
    return generated


ANY_EVENTS = st.one_of(mutated_samples(), valid_events(), invalid_events(), JSON_VALUES)


def with_hub(value: Any, hub: str) -> Any:
    """A generated event with `hub` in place of PLACEHOLDER_HUB."""
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
    """The text with the placeholder of the task hub replaced, if it is base64; otherwise unchanged."""
    if not isinstance(encoded, str) or not encoded.isascii():
        return encoded
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        return encoded
    return base64.b64encode(decoded.replace(PLACEHOLDER_HUB.encode(), hub.encode())).decode()
