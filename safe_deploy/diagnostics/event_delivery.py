"""The event that `doctor` publishes to see whether lifecycle events arrive: what it is, how it is published, and what
each outcome means.

The server remembers it as a delivery check, apart from instances, for an hour. It therefore changes no verdict.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from urllib.parse import urlsplit

import httpx

from safe_deploy.client import Json
from safe_deploy.diagnostics.results import CheckResult, CheckStatus

CHECK = "test event"

CHECK_ENTITY = "safe-deploy-doctor"
"""The server knows a delivery check by this name in the instance id."""

WAIT_SECONDS = 60.0
"""How long `doctor` waits until the server has recorded the event. Event Grid normally delivers within a second, and
again 10 and 40 seconds after a failure."""

POLL_SECONDS = 2.0
SLOW_SECONDS = 10.0
"""From here on, the first delivery has failed: Event Grid repeats it after 10 seconds."""

_PUBLISH_TIMEOUT_SECONDS = 15
_API_VERSION = "2018-01-01"


class CredentialKind(Enum):
    """With what an event is published, as messages name it."""

    APP_KEY = "the key in the app's settings"
    TOPIC_KEY = "a key of the topic"
    TOKEN = "the identity of az"  # noqa: S105  # a text for messages


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """A secret, which `repr` does not show. `setting` is the app setting that has it, if there is one."""

    kind: CredentialKind
    secret: str
    setting: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request that publishes."""
        if self.kind is CredentialKind.TOKEN:
            return {"Authorization": f"Bearer {self.secret}"}
        return {"aeg-sas-key": self.secret}


@dataclass(frozen=True, slots=True)
class Publication:
    """The topic's answer to an event: its HTTP status, or why there is none."""

    status: int | None
    error: str = ""


def create_check_id() -> str:
    return uuid.uuid4().hex


def build_event(task_hub: str, check_id: str, now: datetime) -> Json:
    """An event in the form in which the Durable Functions extension publishes. It is the event of an entity, which no
    server takes for a running orchestration."""
    return {
        "id": str(uuid.uuid4()),
        "topic": None,
        "subject": "durable/orchestrator/Completed",
        "eventType": "orchestratorEvent",
        "eventTime": f"{now:%Y-%m-%dT%H:%M:%S.%f}0Z",
        "metadataVersion": None,
        "dataVersion": "1.0",
        "data": {
            "hubName": task_hub,
            "functionName": CHECK_ENTITY,
            "instanceId": f"@{CHECK_ENTITY}@{check_id}",
            "reason": "",
            "runtimeStatus": "Completed",
        },
    }


def publish(endpoint: str, event: Json, credential: Credential) -> Publication:
    """Send an event to a topic, once. `endpoint` is a URL that `find_endpoint_problem` has accepted."""
    separator = "&" if urlsplit(endpoint).query else "?"
    try:
        response = httpx.post(
            f"{endpoint}{separator}api-version={_API_VERSION}",
            json=[event],
            headers=credential.headers,
            timeout=_PUBLISH_TIMEOUT_SECONDS,
            follow_redirects=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        return Publication(None, type(error).__name__)
    return Publication(response.status_code)


def assess_publication(publication: Publication, *, host: str, credential: Credential) -> CheckResult | None:
    """The result if the topic did not take the event; None if it did."""
    status = publication.status
    used = credential.kind.value
    if status is None:
        message = (
            f"the topic {host} cannot be reached from here ({publication.error}). Check that the topic exists, its "
            "name in the app's settings, and the network of this machine"
        )
        return CheckResult(CHECK, CheckStatus.FAILED, message)
    if status in (200, 202, 204):
        return None
    if status == 401:
        return CheckResult(
            CHECK, CheckStatus.FAILED, f"the topic {host} refuses {used} (401). {_advise_on_key(credential)}"
        )
    if status == 403:
        role = ", or that the identity of az lacks the role EventGrid Data Sender on the topic"
        message = (
            f"the topic {host} denies publishing (403). That means that its network rules do not let this machine in"
            f"{role if credential.kind is CredentialKind.TOKEN else ''}. Whether they let the app in is not known: "
            "allow this machine, or run the command in the network of the app"
        )
        return CheckResult(CHECK, CheckStatus.UNKNOWN, message)
    if status in (404, 410):
        message = f"there is no topic at {host} ({status}). Correct the endpoint in the app's settings"
        return CheckResult(CHECK, CheckStatus.FAILED, message)
    if status == 429 or status >= 500:
        message = f"the topic {host} takes no events at the moment ({status}). Run the command again later"
        return CheckResult(CHECK, CheckStatus.FAILED, message)
    message = (
        f"the topic {host} refuses the event ({status}). A topic for lifecycle events has the input schema "
        "EventGridSchema, because the extension publishes no other"
    )
    return CheckResult(CHECK, CheckStatus.FAILED, message)


def _advise_on_key(credential: Credential) -> str:
    """What to do if a topic does not know the credential."""
    if credential.kind is CredentialKind.APP_KEY:
        return (
            f"The app publishes nothing either. Set {credential.setting} to a key of the topic; if the topic disables "
            "keys, let the app publish with its identity (EventGrid__topicEndpoint)"
        )
    if credential.kind is CredentialKind.TOPIC_KEY:
        return "The topic may disable keys: then let the app publish with its identity (EventGrid__topicEndpoint)"
    return "Log in again with az login, in the tenant of the topic"


def assess_arrival(seconds: float | None, *, host: str, task_hub: str) -> CheckResult:
    """The result for an event that the topic took. `seconds` is when the server recorded it; None if it did not."""
    if seconds is None:
        message = (
            f"the topic {host} took the event, and the server has not recorded it within {WAIT_SECONDS:.0f} s. Check "
            "that the subscription delivers to this server, and read its dead letters and the server's log. Event Grid "
            "repeats deliveries, so run the command again after some minutes"
        )
        return CheckResult(CHECK, CheckStatus.FAILED, message)
    if seconds >= SLOW_SECONDS:
        message = (
            f"events of task hub {task_hub} arrive, but the server recorded this one only after {seconds:.0f} s. It "
            "may have refused the first delivery, or started slowly: read its log"
        )
        return CheckResult(CHECK, CheckStatus.WARNING, message)
    return CheckResult(
        CHECK, CheckStatus.OK, f"an event of task hub {task_hub} arrived {seconds:.0f} s after it was published"
    )
