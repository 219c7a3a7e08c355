"""Signals what this process has recorded to the listeners in this process. Other processes get no signal."""

from collections import defaultdict
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TypeVar

from state_api.domain.names import AppKey, HubKey, app_key, hub_key
from state_api.domain.readiness.waiting import RecordedChanges
from state_api.domain.releases.apps import App

TaskHubListener = Callable[[RecordedChanges], None]
AppListener = Callable[[App], None]
AcknowledgementListener = Callable[[], None]

_Key = TypeVar("_Key")
_Listener = TypeVar("_Listener")


class ChangeSignals:
    """Passes changes on to listeners, in the order in which they were recorded. A listener must not block or raise."""

    def __init__(self) -> None:
        self._task_hub_listeners: dict[HubKey, list[TaskHubListener]] = defaultdict(list)
        self._app_listeners: dict[AppKey, list[AppListener]] = defaultdict(list)
        self._acknowledgement_listeners: dict[AppKey, list[AcknowledgementListener]] = defaultdict(list)

    def has_listeners(self, task_hub: str) -> bool:
        """Whether a listener is registered for changes in this task hub."""
        return hub_key(task_hub) in self._task_hub_listeners

    def signal_task_hub(self, task_hub: str, changes: RecordedChanges) -> None:
        """Report changes of a task hub's records to its listeners, after the changes have been stored."""
        for listener in tuple(self._task_hub_listeners.get(hub_key(task_hub), ())):
            listener(changes)

    def signal_app(self, app: App) -> None:
        """Report the new state of an app to its listeners, after the state has been stored."""
        for listener in tuple(self._app_listeners.get(app_key(app.name), ())):
            listener(app)

    def signal_acknowledgement(self, app: str) -> None:
        """Report to the app's listeners that a router has acknowledged another revision, after that has been stored."""
        for listener in tuple(self._acknowledgement_listeners.get(app_key(app), ())):
            listener()

    @contextmanager
    def listen_to_task_hub(self, task_hub: str, listener: TaskHubListener) -> Iterator[None]:
        """Call the listener for every change in the records of a task hub."""
        with _listen(self._task_hub_listeners, hub_key(task_hub), listener):
            yield

    @contextmanager
    def listen_to_app(self, app: str, listener: AppListener) -> Iterator[None]:
        """Call the listener for every change of an app."""
        with _listen(self._app_listeners, app_key(app), listener):
            yield

    @contextmanager
    def listen_to_acknowledgements(self, app: str, listener: AcknowledgementListener) -> Iterator[None]:
        """Call the listener whenever a router of an app acknowledges another revision."""
        with _listen(self._acknowledgement_listeners, app_key(app), listener):
            yield


@contextmanager
def _listen(listeners: MutableMapping[_Key, list[_Listener]], key: _Key, listener: _Listener) -> Iterator[None]:
    """Call the listener for changes under this key while the block runs."""
    listeners[key].append(listener)
    try:
        yield
    finally:
        listeners[key].remove(listener)
        if not listeners[key]:
            del listeners[key]
