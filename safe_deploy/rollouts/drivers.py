"""What the commands of `safe-deploy rollout` need of a rollout in either model."""

from typing import Protocol

from safe_deploy.client import Json


class RolloutDriver(Protocol):
    """Begins, changes and follows the rollout of one app. Each call may be repeated after an interruption."""

    @property
    def advances_without_pipeline(self) -> bool:
        """Whether the rollout goes on while no command follows it. Otherwise `start` follows it always."""

    def start(self, body: Json, app: Json, etag: str) -> Json:
        """Send PutRollout, or find that this rollout is in progress already. Returns it. `app` and `etag` are what the
        command has read and decided on."""

    def change(self, action: str, body: Json) -> Json:
        """Carry out `abort` or `finish` of the rollout on record. Returns it."""

    def follow(self, rollout: Json, *, timeout_seconds: float) -> Json:
        """Return the rollout as soon as it has ended or is paused. Raises TimedOut, and ConflictError when another
        rollout has taken its place."""
