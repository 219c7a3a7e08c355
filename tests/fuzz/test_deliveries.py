"""PostEvents from the first byte to the table: no delivery may bring the server down, and no event may vanish."""

import json
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import new_hub_name
from tests.fuzz.deliveries import JSON_HEADERS, DeliveryChecker, is_handshake, parse_body
from tests.fuzz.event_strategies import (
    ANY_EVENTS,
    INSTANCE_IDS,
    SHALLOW_JSON,
    invalid_events,
    mutated_samples,
    valid_events,
    with_hub,
)
from tests.hypothesis_profiles import example_count

FEW_EXAMPLES = settings(max_examples=example_count(by_default=6, fuzz=1000), database=None)
# Each sends many deliveries to two hubs.
FEWEST_EXAMPLES = settings(max_examples=example_count(by_default=2, fuzz=300), database=None)

TYPES = st.sampled_from(
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    ]
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])


@FEW_EXAMPLES
@given(good=st.lists(valid_events(), max_size=8), bad=st.lists(invalid_events(), max_size=8), data=st.data())
def test_a_batch_of_good_and_bad_is_split_and_nothing_of_it_vanishes(
    deliveries: DeliveryChecker, good: list[Any], bad: list[Any], data: st.DataObject
) -> None:
    hub = new_hub_name()
    good, bad = with_hub(good, hub), with_hub(bad, hub)
    body = json.dumps(data.draw(st.permutations(good + bad))).encode()
    kept = deliveries.locate_events(deliveries.deliver(body), parse_body(body))
    assert kept == Counter(json.dumps(one) for one in parse_body(json.dumps(bad).encode()))
    if good:
        deliveries.delete_instance_table(hub)


@FEW_EXAMPLES
@given(events=st.lists(ANY_EVENTS, max_size=6), ascii_only=st.booleans(), encoding=ENCODINGS, media_type=TYPES)
def test_any_events_however_written_are_all_found(
    deliveries: DeliveryChecker, events: list[Any], ascii_only: bool, encoding: str, media_type: str
) -> None:
    body = json.dumps(with_hub(events, new_hub_name()), ensure_ascii=ascii_only).encode(encoding, "surrogatepass")
    answer = deliveries.deliver(body, {"Content-Type": media_type})
    sent = parse_body(body)
    if not is_handshake(sent):
        deliveries.locate_events(answer, sent)


@st.composite
def broken_bodies(draw: st.DrawFn) -> bytes:
    """A delivery of which bytes were lost, changed or added on its way."""
    body = bytearray(
        json.dumps(with_hub(draw(st.lists(mutated_samples(), min_size=1, max_size=3)), new_hub_name())).encode()
    )
    for _ in range(draw(st.integers(1, 6))):
        first = draw(st.integers(0, len(body)))
        last = first + draw(st.integers(0, 12))
        body[first:last] = draw(st.binary(max_size=4) | st.sampled_from([b'"', b"{", b"9" * 5000]))
    return bytes(body)


@FEW_EXAMPLES
@given(body=st.binary(max_size=200) | broken_bodies(), media_type=TYPES)
def test_any_bytes_are_refused_or_all_found(deliveries: DeliveryChecker, body: bytes, media_type: str) -> None:
    answer = deliveries.deliver(body, {"Content-Type": media_type})
    try:
        sent = parse_body(body)
    except (ValueError, RecursionError):
        sent = None
    if isinstance(sent, dict):
        sent = [sent]
    if not isinstance(sent, list):
        assert answer.status_code == 400
        assert answer.json()["code"] == "InvalidRequest"
        assert not deliveries.list_quarantined()
    elif not is_handshake(sent):
        deliveries.locate_events(answer, sent)


HEADERS = st.sampled_from([b"type", b"time", b"subject", b"source", b"data", b"data_base64", b"x", b"eventtype"])
VALUES = st.binary(max_size=20).map(lambda value: bytes(byte for byte in value if byte > 32 and byte != 127)) | (
    st.sampled_from([b"orchestratorEvent", b"%00", b"%ud800", b"%ed%a0%80", b"%", b"2026-11-20T09:00:00Z"])
)


@FEW_EXAMPLES
@given(
    attributes=st.dictionaries(HEADERS, VALUES, max_size=4),
    sound=st.booleans(),
    body=st.binary(max_size=60) | SHALLOW_JSON.map(lambda value: json.dumps(value).encode()),
    instance_id=INSTANCE_IDS,
)
def test_a_binary_cloud_event_is_found(
    deliveries: DeliveryChecker, attributes: dict[bytes, bytes], sound: bool, body: bytes, instance_id: str
) -> None:
    hub = new_hub_name()
    if sound:
        attributes |= {b"type": b"orchestratorEvent", b"time": b"2026-11-20T09:00:00Z"}
        body = json.dumps({"hubName": hub, "instanceId": instance_id, "runtimeStatus": "Running"}).encode()
    headers = [(b"ce-specversion", b"1.0"), (b"ce-id", hub.encode())]
    headers += [(b"ce-" + name, value) for name, value in attributes.items()]
    counts = deliveries.check_counts(deliveries.deliver(body, headers))
    if sound:
        assert counts == (1, 0)
        assert [one["instanceId"] for one in deliveries.list_instances(hub)] == [instance_id]
        deliveries.delete_instance_table(hub)
    else:
        assert counts == (0, 1)
        assert json.loads(deliveries.list_quarantined()[0])["id"] == hub


FEW_INSTANCE_IDS = st.sampled_from(["order/1", "order#2", "@counter@basket", "\U0001f4e6" * 128])
"""Few ids, so that events meet."""


@FEWEST_EXAMPLES
@given(events=st.lists(valid_events(FEW_INSTANCE_IDS), min_size=1, max_size=8), data=st.data())
def test_the_same_events_leave_the_same_records_in_any_order_and_split(
    deliveries: DeliveryChecker, events: list[Any], data: st.DataObject
) -> None:
    """Whole records, as they are shown; what a history must lead to, the stateful test of the store says."""
    seconds = data.draw(st.lists(st.integers(0, 2), min_size=len(events), max_size=len(events)))
    for number, one in zip(seconds, events, strict=True):
        # Few times as well.
        one["time" if "specversion" in one else "eventTime"] = f"2026-11-20T09:00:0{number}Z"
    left: list[Any] = []
    for _ in range(2):
        hub = new_hub_name()
        rest = with_hub(events, hub) + with_hub(data.draw(st.lists(st.sampled_from(events), max_size=4)), hub)
        rest = data.draw(st.permutations(rest))
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            body = json.dumps(rest[:size]).encode()
            assert deliveries.check_counts(deliveries.deliver(body, JSON_HEADERS)) == (size, 0)
            rest = rest[size:]
        left.append(sorted(deliveries.list_instances(hub), key=lambda one: str(one["instanceId"])))
        deliveries.delete_instance_table(hub)
    assert left[0] == left[1]
