"""Which releases the policy's retention keeps after they have lost their traffic, so that they can get it again."""

from dataclasses import dataclass

from state_api.domain.instants import Instant, seconds
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.releases import Release


@dataclass(frozen=True, slots=True)
class RollbackWindow:
    """How long a release is kept. `until` is None if it ends only when other releases lose their traffic."""

    until: Instant | None


def find_rollback_window(app: App, release: Release, now: Instant) -> RollbackWindow | None:
    """The time for which the policy keeps a release that had traffic and has none now. None if it is not kept: then a
    retirement that does not name it may remove it.

    `keepLast` counts the releases by when they lost their traffic, also those that still drain, so that 1 keeps the
    release before the active one.
    """
    retention = app.policy.retention
    if release.traffic_end is None or release.removal is not None:
        return None
    ends = [
        (other.traffic_end.at, other.version)
        for other in app.releases.values()
        if other.traffic_end is not None and other.removal is None
    ]
    if (release.traffic_end.at, release.version) in sorted(ends, reverse=True)[: retention.keep_last]:
        return RollbackWindow(None)
    end = Instant(release.traffic_end.at + seconds(3600 * retention.keep_for_hours))
    # Servers agree on the time to a second, so the traffic can have ended in the future. 0 hours keep nothing.
    return RollbackWindow(end) if retention.keep_for_hours and now < end else None
