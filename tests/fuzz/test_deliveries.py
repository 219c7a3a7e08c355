"""PostEvents from the request to the table: no delivery makes the server fail, and no event is lost."""

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
# Each example sends many deliveries to two task hubs.
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
@given(valid=st.lists(valid_events(), max_size=8), invalid=st.lists(invalid_events(), max_size=8), data=st.data())
def test_valid_events_are_recorded_and_invalid_events_of_the_same_batch_are_quarantined(
    deliveries: DeliveryChecker, valid: list[Any], invalid: list[Any], data: st.DataObject
) -> None:
    hub = new_hub_name()
    valid, invalid = with_hub(valid, hub), with_hub(invalid, hub)
    body = json.dumps(data.draw(st.permutations(valid + invalid))).encode()
    quarantined = deliveries.locate_events(deliveries.deliver(body), parse_body(body))
    assert quarantined == Counter(json.dumps(event) for event in parse_body(json.dumps(invalid).encode()))
    if valid:
        deliveries.delete_instance_table(hub)


@FEW_EXAMPLES
@given(events=st.lists(ANY_EVENTS, max_size=6), ascii_only=st.booleans(), encoding=ENCODINGS, media_type=TYPES)
def test_no_event_is_lost_in_any_encoding(
    deliveries: DeliveryChecker, *, events: list[Any], ascii_only: bool, encoding: str, media_type: str
) -> None:
    body = json.dumps(with_hub(events, new_hub_name()), ensure_ascii=ascii_only).encode(encoding, "surrogatepass")
    response = deliveries.deliver(body, {"Content-Type": media_type})
    sent = parse_body(body)
    if not is_handshake(sent):
        deliveries.locate_events(response, sent)


@st.composite
def broken_bodies(draw: st.DrawFn) -> bytes:
    """A delivery in which bytes were removed, changed or added."""
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
def test_any_bytes_are_refused_or_no_event_of_them_is_lost(
    deliveries: DeliveryChecker, body: bytes, media_type: str
) -> None:
    response = deliveries.deliver(body, {"Content-Type": media_type})
    try:
        sent = parse_body(body)
    except (ValueError, RecursionError):
        sent = None
    if isinstance(sent, dict):
        sent = [sent]
    if not isinstance(sent, list):
        assert response.status_code == 400
        assert response.json()["code"] == "InvalidRequest"
        assert not deliveries.list_quarantined()
    elif not is_handshake(sent):
        deliveries.locate_events(response, sent)


HEADERS = st.sampled_from([b"type", b"time", b"subject", b"source", b"data", b"data_base64", b"x", b"eventtype"])
VALUES = st.binary(max_size=20).map(lambda value: bytes(byte for byte in value if byte > 32 and byte != 127)) | (
    st.sampled_from([b"orchestratorEvent", b"%00", b"%ud800", b"%ed%a0%80", b"%", b"2026-11-20T09:00:00Z"])
)


@FEW_EXAMPLES
@given(
    attributes=st.dictionaries(HEADERS, VALUES, max_size=4),
    is_valid=st.booleans(),
    body=st.binary(max_size=60) | SHALLOW_JSON.map(lambda value: json.dumps(value).encode()),
    instance_id=INSTANCE_IDS,
)
def test_a_binary_cloud_event_is_not_lost(
    deliveries: DeliveryChecker, *, attributes: dict[bytes, bytes], is_valid: bool, body: bytes, instance_id: str
) -> None:
    hub = new_hub_name()
    if is_valid:
        attributes |= {b"type": b"orchestratorEvent", b"time": b"2026-11-20T09:00:00Z"}
        body = json.dumps({"hubName": hub, "instanceId": instance_id, "runtimeStatus": "Running"}).encode()
    headers = [(b"ce-specversion", b"1.0"), (b"ce-id", hub.encode())]
    headers += [(b"ce-" + name, value) for name, value in attributes.items()]
    counts = deliveries.check_counts(deliveries.deliver(body, headers))
    if is_valid:
        assert counts == (1, 0)
        assert [instance["instanceId"] for instance in deliveries.list_instances(hub)] == [instance_id]
        deliveries.delete_instance_table(hub)
    else:
        assert counts == (0, 1)
        assert json.loads(deliveries.list_quarantined()[0])["id"] == hub


FEW_INSTANCE_IDS = st.sampled_from(["order/1", "order#2", "@counter@basket", "\U0001f4e6" * 128])
"""Few ids, so that several events have the same id."""


@FEWEST_EXAMPLES
@given(events=st.lists(valid_events(FEW_INSTANCE_IDS), min_size=1, max_size=8), data=st.data())
def test_the_records_do_not_depend_on_the_order_of_events_or_their_batches(
    deliveries: DeliveryChecker, events: list[Any], data: st.DataObject
) -> None:
    """Compares records with each other; test_recorded_histories.py compares them with a model."""
    seconds = data.draw(st.lists(st.integers(0, 2), min_size=len(events), max_size=len(events)))
    for second, event in zip(seconds, events, strict=True):
        # Few times, so that several events have the same time.
        event["time" if "specversion" in event else "eventTime"] = f"2026-11-20T09:00:0{second}Z"
    records: list[Any] = []
    for _ in range(2):
        hub = new_hub_name()
        duplicates = data.draw(st.lists(st.sampled_from(events), max_size=4))
        unsent = data.draw(st.permutations(with_hub(events, hub) + with_hub(duplicates, hub)))
        while unsent:
            size = data.draw(st.integers(1, len(unsent)))
            body = json.dumps(unsent[:size]).encode()
            assert deliveries.check_counts(deliveries.deliver(body, JSON_HEADERS)) == (size, 0)
            unsent = unsent[size:]
        records.append(sorted(deliveries.list_instances(hub), key=lambda instance: str(instance["instanceId"])))
        deliveries.delete_instance_table(hub)
    assert records[0] == records[1]
