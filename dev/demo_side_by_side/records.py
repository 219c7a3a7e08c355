"""What customers have experienced: which release answered each request, and how each order ended. Times are seconds of
`time.monotonic`."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class VisitRecord:
    """A request that may go to any release: a look at the shop, or an order.

    `task_hub` is that of the release that answered. `failure` is why none did. `was_pinned`: the request had a sticky
    cookie."""

    sent_at: float
    task_hub: str | None = None
    failure: str | None = None
    was_pinned: bool = False


@dataclass(slots=True)
class OrderRecord:
    """An order that a release has accepted. `task_hub` is where it began. `seen_status` is how it ended by its status
    URL, None while it has not."""

    order_id: str
    task_hub: str
    seen_status: str | None = None


@dataclass(slots=True)
class CustomerRecord:
    """All that one customer has experienced. `failures` are requests for orders that exist: status, approval."""

    name: str
    keeps_cookies: bool
    visits: list[VisitRecord] = field(default_factory=list)
    orders: list[OrderRecord] = field(default_factory=list)
    pinned_to: str | None = None
    """The task hub of the release that set the sticky cookie."""
    failures: list[str] = field(default_factory=list)
