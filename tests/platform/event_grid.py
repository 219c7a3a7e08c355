"""A loopback stand-in for Event Grid: a topic that takes events with its key, and one subscription that delivers them
to a webhook, again and again until they are taken."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.durable_app.processes import KEY, Topic, topic

_RETRY_SECONDS = 0.5
"""Event Grid waits 10 s at first."""


class Subscription:
    """What was published to the topic and delivered to the webhook."""

    def __init__(self, to: Topic, webhook: str) -> None:
        self.topic = to
        self.down = False
        """Whether the topic refuses events: the sender then tries again and gives up."""
        self._webhook = webhook
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._closed = threading.Event()

    def publish(self, event: dict[str, Any]) -> int:
        """Take an event from the publisher; the HTTP status."""
        if self.down:
            return 503
        self._waiting.put(event)
        return 200

    def deliver(self) -> None:
        """Deliver events in order until the subscription is closed."""
        with httpx.Client(timeout=30, headers={"aeg-event-type": "Notification"}) as client:
            while (event := self._waiting.get()) is not None:
                while not self._delivered(client, event) and not self._closed.wait(_RETRY_SECONDS):
                    pass
                self._waiting.task_done()

    def flush(self) -> None:
        """Wait until all that was published has been delivered."""
        self._waiting.join()

    def close(self) -> None:
        self._closed.set()
        self._waiting.put(None)

    def _delivered(self, client: httpx.Client, event: dict[str, Any]) -> bool:
        try:
            return client.post(self._webhook, json=[event]).is_success
        except httpx.TransportError:
            return False


@contextmanager
def event_grid(webhook: str) -> Iterator[Subscription]:
    """A topic with the key `KEY` that delivers to this webhook until the block ends."""
    with topic(KEY) as to:
        subscription = Subscription(to, webhook)
        to.meanwhile = subscription.publish
        thread = threading.Thread(target=subscription.deliver)
        thread.start()
        try:
            yield subscription
        finally:
            subscription.close()
            thread.join()
