"""Follows lifecycle events from the app's settings to the server's records: topic, subscription, and an event that is
published for this check. Reads with `az`, and builds the repairs."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from urllib.parse import urlsplit

from safe_deploy.addresses import is_on_this_machine
from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_event_grid import DEAD_LETTER_CONTAINER, EventGrid, Topic
from safe_deploy.azure_state_server import AzureStateServer, ServerFunctionApp
from safe_deploy.client import StateServerClient
from safe_deploy.diagnostics import event_delivery
from safe_deploy.diagnostics.durable_sites import DurableSite
from safe_deploy.diagnostics.event_delivery import Credential, CredentialKind
from safe_deploy.diagnostics.event_settings import (
    TopicSettings,
    TopicSource,
    describe_missing,
    find_endpoint_problem,
    is_azure_endpoint,
    parse_topic_settings,
)
from safe_deploy.diagnostics.event_subscriptions import CHECK as SUBSCRIPTION_CHECK
from safe_deploy.diagnostics.event_subscriptions import (
    assess_subscriptions,
    choose_subscription_name,
    select_subscriptions,
)
from safe_deploy.diagnostics.results import CheckResult, CheckStatus, ErrorFilter, Repair
from safe_deploy.rendering import current_time


@dataclass(slots=True, kw_only=True)
class EventPath:
    """What the checks need. The first of `sites` gets the requests, so the event is published as it would.

    - `is_verified`: verdicts do not rest on events alone, so that an app without a topic is only a warning.
    - `publishes`: publish an event.
    """

    server: StateServerClient
    task_hub: str
    is_verified: bool
    publishes: bool
    sites: Sequence[DurableSite]
    source: TopicSource
    event_grid: EventGrid
    state_server: AzureStateServer
    errors: ErrorFilter
    report: Callable[[str], None]
    _topics: dict[str, Topic | None] = field(default_factory=dict)
    _server_apps: list[ServerFunctionApp | None] = field(default_factory=list)
    _lacks_subscription: bool = False
    """Whether Azure has shown that no subscription delivers to the server."""

    def check(self) -> Iterator[CheckResult]:
        """All checks of the path, in the order in which an event takes it."""
        for site in self.sites:
            check = f"topic: {site.name}"
            yield from self.errors.run(check, partial(self._check_settings, check, site))
        yield from self.errors.run(SUBSCRIPTION_CHECK, self._check_subscriptions)
        if self.publishes:
            yield from self.errors.run(event_delivery.CHECK, self._check_delivery)

    # --- the settings ---

    def _read_topic(self, site: DurableSite) -> TopicSettings:
        return parse_topic_settings(self.source, site.read_settings())

    def _check_settings(self, check: str, site: DurableSite) -> Iterator[CheckResult]:
        """Whether a slot or release has a topic, and the same as the one that gets the requests."""
        topic = self._read_topic(site)
        again = partial(self._check_settings, check, site)
        if not topic.is_complete:
            status = CheckStatus.WARNING if self.is_verified else CheckStatus.FAILED
            message = (
                f"{site.name} has no app setting {describe_missing(self.source, topic)}, so what is deployed there "
                "publishes no lifecycle events"
            )
            repair = self._plan_topic_repair(site, topic, again)
            advice = "" if repair else ". Set them to an Event Grid topic; docs/azure.md says how"
            yield CheckResult(check, status, message + advice, repair=repair)
            return
        if problem := find_endpoint_problem(topic.endpoint):
            name = self.source.endpoint_setting or "topicEndpoint of host.json"
            yield CheckResult(check, CheckStatus.FAILED, f"the endpoint of the topic ({name}) {problem}")
            return
        used = "its identity" if topic.uses_identity else f"the key in {self.source.key_setting}"
        yield CheckResult(check, CheckStatus.OK, f"{site.name} publishes to {_host(topic.endpoint)} with {used}")

    def _plan_topic_repair(
        self, site: DurableSite, topic: TopicSettings, again: Callable[[], Iterator[CheckResult]]
    ) -> Repair | None:
        """Give the site the topic of the site that gets the requests, or the only topic in the server's group. None if
        neither exists, and if host.json has the endpoint itself and no key is known."""
        target = self._find_topic(topic.endpoint) if topic.endpoint else self._find_candidate(site)
        if target is None:
            return None
        names = describe_missing(self.source, topic)

        def set_topic() -> str:
            # A setting that exists is kept: the key may be a reference to Key Vault.
            values = {} if topic.has_key else {self.source.key_setting: self.event_grid.get_key(target)}
            if not topic.endpoint and self.source.endpoint_setting:
                values[self.source.endpoint_setting] = target.endpoint
            site.change_settings(values)
            return f"set {names} of {site.name} to topic {target.name}. The app restarted"

        question = f"Set {names} of {site.name} to topic {target.name}? The app restarts."
        return Repair(question, set_topic, again)

    def _find_candidate(self, site: DurableSite) -> Topic | None:
        """The topic that a site without one should have."""
        first = self.sites[0]
        if site.name != first.name and (endpoint := self._read_topic(first).endpoint):
            return self._find_topic(endpoint)
        app = self._find_server_app()
        topics = self.event_grid.list_topics(app.resource_group) if app else []
        return topics[0] if len(topics) == 1 else None

    # --- the subscription ---

    def _check_subscriptions(self) -> Iterator[CheckResult]:
        """Whether the topic has a subscription that delivers to the server."""
        endpoint = self._read_usable_endpoint()
        if endpoint is None:
            return
        topic = self._find_topic(endpoint)
        if topic is None:
            message = (
                f"az sees no topic {_host(endpoint)} in its subscription. Give its identity the role Reader on the "
                "topic, or select the topic's subscription with az account set"
            )
            yield CheckResult(SUBSCRIPTION_CHECK, CheckStatus.UNKNOWN, message)
            return
        app = self._find_server_app()
        subscriptions = self.event_grid.list_subscriptions(topic)
        to_server = select_subscriptions(
            subscriptions, server_url=self.server.url, function_app_id=app.id if app else None
        )
        self._lacks_subscription = not to_server and app is not None
        if not to_server and app is None:
            message = (
                f"az sees no function app with the server's address {self.server.url}, so it is not known whether one "
                f"of the {len(subscriptions)} subscriptions of topic {topic.name} delivers to it"
            )
            yield CheckResult(SUBSCRIPTION_CHECK, CheckStatus.UNKNOWN, message)
            return
        result = assess_subscriptions(topic.name, to_server, len(subscriptions))
        if not to_server and app is not None:
            name = choose_subscription_name([item.name for item in subscriptions])
            result = replace(result, repair=self._plan_subscription(topic, app, name))
        yield result

    def _plan_subscription(self, topic: Topic, app: ServerFunctionApp, subscription: str) -> Repair:
        """Create the subscription. Events that are not delivered are kept if the server's group has one storage
        account, as the templates make it."""
        accounts = self.state_server.list_storage_accounts(app.resource_group)
        name, account_id = next(iter(accounts.items())) if len(accounts) == 1 else ("", None)
        kept = f"dead letters in container {DEAD_LETTER_CONTAINER} of storage account {name}"

        def create() -> str:
            self.event_grid.create_subscription(topic, subscription, app.id, account_id)
            return f"created subscription {subscription} of topic {topic.name}"

        question = (
            f"Create subscription {subscription}, which delivers events of topic {topic.name} to function app "
            f"{app.name}, repeats deliveries for 24 h, and has {kept if account_id else 'no dead letters'}?"
        )
        return Repair(question, create, self._check_subscriptions)

    # --- the test event ---

    def _check_delivery(self) -> Iterator[CheckResult]:
        """Publish an event as the app would, and wait until the server has recorded it."""
        topic = self._read_topic(self.sites[0])
        if not topic.is_complete or find_endpoint_problem(topic.endpoint):
            return
        host = _host(topic.endpoint)
        if self._lacks_subscription:
            message = "no event was published, because no subscription delivers to the server"
            yield CheckResult(event_delivery.CHECK, CheckStatus.FAILED, message)
            return
        check_id = event_delivery.create_check_id()
        credential = self._find_credential(topic)
        if credential is None:
            message = (
                f"{host} is not in Azure's domains, and az shows no key of a topic there, so neither a key nor a token "
                "is sent there. Nothing was published"
            )
            yield CheckResult(event_delivery.CHECK, CheckStatus.UNKNOWN, message)
            return
        self.report(f"publishing a test event to {host}, and waiting up to {event_delivery.WAIT_SECONDS:.0f} s for it")
        # The server refuses a time that is ahead of its own, and the clock of this machine may be wrong.
        now = self.server.read_clock() or current_time()
        event = event_delivery.build_event(self.task_hub, check_id, now)
        publication = event_delivery.publish(topic.endpoint, event, credential)
        refusal = event_delivery.assess_publication(publication, host=host, credential=credential)
        if refusal is not None:
            yield refusal
            return
        yield event_delivery.assess_arrival(self._wait_for(check_id), host=host, task_hub=self.task_hub)

    def _find_credential(self, topic: TopicSettings) -> Credential | None:
        """The app's own key, if az shows it; else a key of the topic; else a token. None if no secret must be sent to
        the topic. Raises AzureUnavailable."""
        has_usable_key = topic.key is not None and topic.key.isascii() and topic.key.isprintable()
        if topic.key is not None and has_usable_key and self._is_topic(topic.endpoint):
            return Credential(CredentialKind.APP_KEY, topic.key, self.source.key_setting)
        if not topic.uses_identity:
            try:
                resource = self._find_topic(topic.endpoint)
                if resource is not None:
                    return Credential(CredentialKind.TOPIC_KEY, self.event_grid.get_key(resource))
            except AzureUnavailable as error:
                self.report(f"{event_delivery.CHECK}: {error.message}")
        if not is_azure_endpoint(topic.endpoint):
            return None
        return Credential(CredentialKind.TOKEN, self.event_grid.get_token())

    def _is_topic(self, endpoint: str) -> bool:
        """Whether a secret may be sent to the endpoint. Raises AzureUnavailable.

        host.json names the endpoint, and the setting with the key. With the host.json of an attacker, any app setting
        could otherwise be sent to any host."""
        return is_azure_endpoint(endpoint) or is_on_this_machine(endpoint) or self._find_topic(endpoint) is not None

    def _wait_for(self, check_id: str) -> float | None:
        """The seconds until the server shows the event; None if it does not within `WAIT_SECONDS`."""
        started_at = time.monotonic()
        while True:
            checks = self.server.get_task_hub(self.task_hub).get("deliveryChecks", [])
            elapsed = time.monotonic() - started_at
            if any(check["checkId"] == check_id for check in checks):
                return elapsed
            if elapsed >= event_delivery.WAIT_SECONDS:
                return None
            time.sleep(min(event_delivery.POLL_SECONDS, event_delivery.WAIT_SECONDS - elapsed))

    # --- Azure ---

    def _read_usable_endpoint(self) -> str | None:
        """The endpoint that the app publishes to; None if it has none, or none that can be used."""
        topic = self._read_topic(self.sites[0])
        return topic.endpoint if topic.is_complete and not find_endpoint_problem(topic.endpoint) else None

    def _find_topic(self, endpoint: str) -> Topic | None:
        """The topic with this endpoint, asked once."""
        if endpoint not in self._topics:
            self._topics[endpoint] = self.event_grid.find_topic(endpoint)
        return self._topics[endpoint]

    def _find_server_app(self) -> ServerFunctionApp | None:
        """The server's Function App, asked once."""
        if not self._server_apps:
            self._server_apps.append(self.state_server.find())
        return self._server_apps[0]


def _host(endpoint: str) -> str:
    """The host name of a topic, for messages."""
    return urlsplit(endpoint).hostname or "of the app's settings"
