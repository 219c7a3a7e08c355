"""A loopback stand-in for Event Grid: a topic that takes events with its key, and one subscription that delivers them
to a webhook, again and again until they are taken."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.durable_app.host_processes import KEY, Topic, run_topic

_RETRY_SECONDS = 0.5
"""Event Grid waits 10 s at first."""


class EventSubscription:
    """What was published to the topic and delivered to the webhook."""

    def __init__(self, to: Topic, webhook: str) -> None:
        self.topic = to
        self.refuses_events = False
        """Whether the topic refuses events: the sender then tries again and gives up."""
        self._webhook = webhook
        self._undelivered: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._closed = threading.Event()

    def publish(self, event: dict[str, Any]) -> int:
        """Take an event from the publisher; the HTTP status."""
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
        """Wait until all that was published has been delivered."""
        self._undelivered.join()

    def close(self) -> None:
        self._closed.set()
        self._undelivered.put(None)

    def _deliver_event(self, client: httpx.Client, event: dict[str, Any]) -> bool:
        try:
            return client.post(self._webhook, json=[event]).is_success
        except httpx.TransportError:
            return False


@contextmanager
def run_event_grid(webhook: str) -> Iterator[EventSubscription]:
    """A topic with the key `KEY` that delivers to this webhook until the block ends."""
    with run_topic(KEY) as to:
        subscription = EventSubscription(to, webhook)
        to.before_response = subscription.publish
        thread = threading.Thread(target=subscription.deliver_until_closed)
        thread.start()
        try:
            yield subscription
        finally:
            subscription.close()
            thread.join()
