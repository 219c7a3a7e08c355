"""The app settings of one slot, or of the Function App of one release, as several checks read them."""

from collections.abc import Callable, Mapping, Sequence

from safe_deploy.azure_cli import AzureUnavailable


class DurableSite:
    """A slot or a release of the durable app. The settings are read once, and again after a change. So is a
    failure to read them.

    - `name`: that of the slot, or the release with its version.
    - `names`: the settings that the checks will ask for.
    """

    def __init__(
        self,
        name: str,
        *,
        names: Sequence[str],
        read: Callable[[Sequence[str]], dict[str, str]],
        change: Callable[[Mapping[str, str]], None],
    ) -> None:
        self.name = name
        self._names = tuple(names)
        self._read = read
        self._change = change
        self._settings: dict[str, str] | None = None
        self._error: AzureUnavailable | None = None

    def read_settings(self) -> Mapping[str, str]:
        """The values of those settings that exist. They may be secrets. Raises AzureUnavailable."""
        if self._error is not None:
            # A call that times out takes a minute, and several checks read the settings.
            raise self._error
        if self._settings is None:
            try:
                self._settings = self._read(self._names)
            except AzureUnavailable as error:
                self._error = error
                raise
        return self._settings

    def change_settings(self, values: Mapping[str, str]) -> None:
        """Set app settings, which restarts the app. Raises AzureUnavailable."""
        self._settings = None
        self._change(values)
