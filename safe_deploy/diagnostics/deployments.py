"""Whether a deployment is open."""

from collections.abc import Iterator

from safe_deploy.client import Json
from safe_deploy.diagnostics.results import CheckResult, CheckStatus


def check_deployment(app: Json) -> Iterator[CheckResult]:
    """Report an open deployment, if there is one."""
    deployment = app["deployment"]
    if deployment is not None:
        run = f" (run {deployment['runUrl']})" if deployment["runUrl"] else ""
        message = (
            f"{deployment['by']}{run} has been deploying task hub {deployment['taskHub']} since "
            f"{deployment['startedAt']}"
        )
        yield CheckResult("deployment", CheckStatus.WARNING, message)
