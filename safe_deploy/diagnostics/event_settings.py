"""Where a durable app publishes its lifecycle events, by its app settings. Pure.

The Durable Functions extension takes the topic from host.json, which names two app settings. Or it takes the topic from
app settings whose names begin with `EventGrid__`, and publishes with the identity of the app.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from safe_deploy.addresses import is_on_this_machine
from safe_deploy.app_settings import is_reference

IDENTITY_ENDPOINT_SETTING = "EventGrid__topicEndpoint"

AZURE_HOST_SUFFIXES = (".eventgrid.azure.net", ".eventgrid.azure.us", ".eventgrid.azure.cn")
"""The host names of topics in the clouds of Azure."""

_SETTING_REFERENCE = re.compile(r"%([A-Za-z_][A-Za-z0-9_.:-]*)%")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSource:
    """What host.json says about the topic: `endpoint` is a URL, or an app setting between percent signs."""

    endpoint: str = "%LIFECYCLE_TOPIC_ENDPOINT%"
    key_setting: str = "LIFECYCLE_TOPIC_KEY"

    @property
    def endpoint_setting(self) -> str | None:
        """The app setting with the endpoint; None if host.json has the endpoint itself."""
        match = _SETTING_REFERENCE.fullmatch(self.endpoint)
        return match[1] if match else None

    @property
    def setting_names(self) -> Sequence[str]:
        """The app settings to read."""
        return [name for name in (self.endpoint_setting, self.key_setting, IDENTITY_ENDPOINT_SETTING) if name]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TopicSettings:
    """Where one slot or release publishes to. `key` is a secret, and `repr` does not show it.

    - `endpoint`: the URL of the topic, empty without one.
    - `key`: the key of the topic, None if az does not show it: without the setting, and for a reference.
    - `has_key`: the app has the setting with the key.
    - `uses_identity`: the app publishes with its identity, and needs no key.
    """

    endpoint: str
    key: str | None
    has_key: bool
    uses_identity: bool

    @property
    def is_complete(self) -> bool:
        return bool(self.endpoint) and (self.has_key or self.uses_identity)


def parse_topic_settings(source: TopicSource, settings: Mapping[str, str]) -> TopicSettings:
    """The topic of an app with these settings."""
    if identity_endpoint := settings.get(IDENTITY_ENDPOINT_SETTING, ""):
        return TopicSettings(endpoint=identity_endpoint, key=None, has_key=False, uses_identity=True)
    name = source.endpoint_setting
    key = settings.get(source.key_setting, "")
    return TopicSettings(
        endpoint=settings.get(name, "") if name else source.endpoint,
        key=key if key and not is_reference(key) else None,
        has_key=bool(key),
        uses_identity=False,
    )


def describe_missing(source: TopicSource, topic: TopicSettings) -> str:
    """The app settings that are missing, for a sentence."""
    missing = []
    if not topic.endpoint and source.endpoint_setting:
        missing.append(source.endpoint_setting)
    if not topic.has_key:
        missing.append(source.key_setting)
    return " and ".join(missing)


def is_azure_endpoint(endpoint: str) -> bool:
    """Whether the endpoint is one of Event Grid in Azure. A token is sent to no other host: a person who may
    change the app's settings could take it."""
    parts = urlsplit(endpoint)
    return parts.scheme == "https" and (parts.hostname or "").lower().endswith(AZURE_HOST_SUFFIXES)


def find_endpoint_problem(endpoint: str) -> str | None:
    """What is wrong with the endpoint of a topic, None if it can be used. The message does not hold the endpoint."""
    if is_reference(endpoint):
        return "is a reference to Key Vault or App Configuration, which az does not resolve. Set it to the URL itself"
    try:
        parts = urlsplit(endpoint)
        is_url = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        is_url = False
    if not is_url or parts.scheme not in ("http", "https"):
        return "is not the URL of a topic, such as https://lifecycle.westeurope-1.eventgrid.azure.net/api/events"
    if parts.scheme == "http" and not is_on_this_machine(endpoint):
        return "is a URL with http, which would show the topic's key to the network. Set it to the https URL"
    return None
