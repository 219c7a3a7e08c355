"""Functions that start work by themselves, such as those with a timer or a queue: only the active release may run them.

Decides when a promotion disables and enables them, and does it in the Function App of a release. Each change restarts
that app, and each can be repeated without a further effect.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from safe_deploy.azure_function_apps import (
    FunctionAppNotFound,
    FunctionApps,
    find_functions_in_state,
    require_function_name,
)


class PromotionAction(Enum):
    """A step of a promotion or of a rollback."""

    QUIESCE = auto()
    """Disable the functions in the releases that are not to be active."""
    ROUTE = auto()
    """Give all requests to the release that is to be active."""
    UNQUIESCE = auto()
    """Enable the functions in the release that is to be active."""


_ORDERS = {
    "gap": (PromotionAction.ROUTE, PromotionAction.QUIESCE, PromotionAction.UNQUIESCE),
    "overlap": (PromotionAction.ROUTE, PromotionAction.UNQUIESCE, PromotionAction.QUIESCE),
}


def order_actions(quiesce_order: str, *, rollback: bool, had_traffic: bool) -> tuple[PromotionAction, ...]:
    """The order of the steps of a promotion or of a rollback, by the policy `quiesceOrder`.

    - `gap`: no two releases run the functions at once. From the first step to the last one, none runs them. The old
      release loses them while it still has traffic, so it never takes a message that the new release has sent.
    - `overlap`: always some release runs the functions, and for a while two do. Neither app restarts with traffic: the
      new one restarts before it gets some, the old one after it has lost its traffic.

    A promotion takes its first step on functions before it routes, and again after that: until the requests are
    divided anew, another promotion can change the same functions. Taking it again has no effect otherwise.

    A rollback routes first. Visitors must leave a bad release within seconds, also if Azure does not answer.

    `had_traffic`: the release that is to be active had traffic before, so a retirement may be removing it at the same
    time. Its functions are enabled only after the server, which refuses a release that is being removed, has routed to
    it. Otherwise they could start work in a Function App that is deleted next.
    """
    order = _ORDERS[quiesce_order]
    routes_first = rollback or (had_traffic and quiesce_order == "overlap")
    # order[1] is the first step on functions.
    return order if routes_first else (order[1], *order)


class DeployedRelease(Protocol):
    """A release, found in Azure by its address."""

    @property
    def version(self) -> str: ...

    @property
    def address(self) -> str: ...


@dataclass(frozen=True, slots=True)
class QuiesceResult:
    """What was done in the Function App of a release. `changed` is empty if all functions were as wanted."""

    function_app: str
    changed: tuple[str, ...]


class ReleaseFunctions:
    """The functions of an app that start work by themselves, in its releases in one resource group."""

    def __init__(self, function_apps: FunctionApps, functions: Sequence[str], *, report: Callable[[str], None]) -> None:
        """Raises UsageError for a function that cannot be disabled."""
        names_by_key: dict[str, str] = {}
        for function in functions:
            require_function_name(function)
            names_by_key.setdefault(function.lower(), function)
        self._function_apps = function_apps
        self._functions = tuple(names_by_key.values())
        self._report = report

    def quiesce(self, release: DeployedRelease) -> None:
        """Disable the functions in a release.

        They may start work until the Function App has restarted, also if an earlier call has just disabled them. A
        verdict that is asked for at once does not cover that work. Raises FunctionAppNotFound and AzureUnavailable.
        """
        self.set_disabled(release, disabled=True)

    def unquiesce(self, release: DeployedRelease) -> None:
        """Enable the functions in a release. Raises FunctionAppNotFound and AzureUnavailable."""
        self.set_disabled(release, disabled=False)

    def set_disabled(self, release: DeployedRelease, *, disabled: bool) -> QuiesceResult:
        """Disable or enable the functions in a release, and report what that does before it is done."""
        function_app = self._find_function_app(release)
        changed = self._list_in_state(function_app, is_disabled=not disabled)
        state = "disabled" if disabled else "enabled"
        if not changed:
            self._report(
                f"{', '.join(self._functions)} of release {release.version}: {state} already, so Function App "
                f"{function_app} is not restarted"
            )
            return QuiesceResult(function_app, ())
        self._report(
            f"{', '.join(changed)} of release {release.version} will be {state}: Function App {function_app} restarts. "
            "Activities that are running there may run again"
        )
        self._function_apps.set_disabled(function_app, changed, disabled=disabled)
        self._report(f"{', '.join(changed)} of release {release.version}: {state}")
        return QuiesceResult(function_app, tuple(changed))

    def _list_in_state(self, function_app: str, *, is_disabled: bool) -> list[str]:
        """Those of the functions that are disabled, or enabled, in the Function App."""
        disabled = self._function_apps.list_disabled(function_app)
        return find_functions_in_state(disabled, self._functions, is_disabled=is_disabled)

    def _find_function_app(self, release: DeployedRelease) -> str:
        """The Function App of a release, by its address. An error names the release."""
        try:
            return self._function_apps.find_by_address(release.address)
        except FunctionAppNotFound as error:
            raise FunctionAppNotFound(f"release {release.version}: {error.message}") from None
