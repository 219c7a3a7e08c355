"""A fake of Event Grid on loopback: a topic that accepts events with its key, and one subscription that delivers each
event to a webhook until the webhook accepts it."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.durable_app.host_processes import KEY, Topic, run_topic

_RETRY_SECONDS = 0.5
"""Event Grid waits 10 s before the first retry."""


class EventSubscription:
    """Delivers the events of a topic to a webhook, in order. While `refuses_events` is true, the topic answers 503: the
    publisher retries and then gives up."""

    def __init__(self, topic: Topic, webhook: str) -> None:
        """Prepare to deliver the events of a topic to a webhook, as Event Grid does."""
        self.topic = topic
        self.refuses_events = False
        self._webhook = webhook
        self._undelivered: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._closed = threading.Event()

    def publish(self, event: dict[str, Any]) -> int:
        """Accept an event from the publisher, and return the HTTP status."""
        if self.refuses_events:
            return 503
        self._undelivered.put(event)
        return 200

    def deliver_until_closed(self) -> None:
        """Deliver events in order until the subscription is closed."""
        with httpx.Client(timeout=30, headers={"aeg-event-type": "Notification"}) as client:
            while (event := self._undelivered.get()) is not None:
                while not self._deliver_event(client, event) and not self._closed.wait(_RETRY_SECONDS):
                    pass
                self._undelivered.task_done()

    def wait_until_delivered(self) -> None:
        """Wait until every published event has been delivered."""
        self._undelivered.join()

    def close(self) -> None:
        """Stop the delivery. Events that are not delivered yet are dropped."""
        self._closed.set()
        self._undelivered.put(None)

    def _deliver_event(self, client: httpx.Client, event: dict[str, Any]) -> bool:
        """Send an event to the webhook once. Returns whether the webhook accepted it."""
        try:
            return client.post(self._webhook, json=[event]).is_success
        except httpx.TransportError:
            return False


@contextmanager
def run_event_grid(webhook: str) -> Iterator[EventSubscription]:
    """Run a topic with the key `KEY` that delivers to this webhook until the block ends."""
    with run_topic(KEY) as topic:
        subscription = EventSubscription(topic, webhook)
        topic.before_response = subscription.publish
        thread = threading.Thread(target=subscription.deliver_until_closed)
        thread.start()
        try:
            yield subscription
        finally:
            subscription.close()
            thread.join()
