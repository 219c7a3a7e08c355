"""A rollout of a release side by side. The server's timer advances it and writes the routing, so a command only begins,
changes and follows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from safe_deploy.client import Json
from safe_deploy.rollouts.beginning import begin_rollout
from safe_deploy.rollouts.following import follow_rollout
from safe_deploy.rollouts.rollout_changes import change_rollout
from safe_deploy.session import Session


@dataclass(frozen=True, slots=True)
class ReleaseRollout:
    """The rollout of an app with releases side by side. `quiesce_functions`: those of the app's policy."""

    session: Session
    quiesce_functions: Sequence[str]

    @property
    def advances_without_pipeline(self) -> bool:
        return True

    def start(self, body: Json, app: Json, etag: str) -> Json:
        """Begin the rollout, or find that it is in progress already. Returns it."""
        rollout = begin_rollout(self.session.server, body, app, etag, report=self.session.report)
        self._warn_of_functions(rollout)
        return rollout

    def change(self, action: str, body: Json) -> Json:
        """Abort or finish the rollout. Returns it."""
        server = self.session.server
        rollout = change_rollout(server, server.get_rollout(), action, body, report=self.session.report)
        if action == "finish":
            self._warn_of_functions(rollout)
        return rollout

    def follow(self, rollout: Json, *, timeout_seconds: float) -> Json:
        """Return the rollout as soon as it has ended or is paused. Ctrl-C ends the command alone. Raises TimedOut, and
        ConflictError when another rollout has taken its place."""
        try:
            return follow_rollout(
                self.session.server,
                rollout,
                timeout_seconds=timeout_seconds,
                begin_live_line=self.session.begin_live_line,
                report=self.session.report,
            )
        except KeyboardInterrupt:
            self.session.report(
                "the rollout goes on without this command. Run the same command again to follow it, or safe-deploy "
                "rollout abort to give all traffic back"
            )
            raise

    def _warn_of_functions(self, rollout: Json) -> None:
        """Warn that the server routes, and changes nothing in the Function Apps."""
        if self.quiesce_functions:
            self.session.warn(
                "a rollout neither disables nor enables functions, and the policy has "
                f"{', '.join(self.quiesce_functions)}. When it has finished, run safe-deploy promote --version "
                f"{rollout['candidate']} with --resource-group, which moves them to the release and leaves the routing "
                "as it is"
            )
