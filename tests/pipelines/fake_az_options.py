"""The options of a call of the fake `az`, parsed as the Azure CLI does."""

from __future__ import annotations

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from typing import Any


class AzError(Exception):
    """An error as the real `az` reports it: a message and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class ParsedOptions:
    """The options of a call, by their long names with underscores."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        """The value of an option, as an attribute of its name."""
        return self._values[name]


_COMMON_OPTIONS = "--subscription --query --output/-o --only-show-errors? --verbose? --debug?"


def parse_options(command: str, options: str, arguments: list[str]) -> ParsedOptions:
    """Parse the arguments that follow the words of a command. Raises AzError with exit code 2, as `az` does.

    `options` declares the options, separated by spaces: `--long/-s`, followed by `!` if the option is required, `+` if
    it takes several values, `?` if it takes none."""
    declared = [(option, option.rstrip("!+?").split("/")) for option in f"{options} {_COMMON_OPTIONS}".split()]
    values: dict[str, Any] = {_option_name(flags): False if "?" in option else None for option, flags in declared}
    remaining, unknown = list(arguments), []
    while remaining:
        argument, separator, attached_value = remaining.pop(0).partition("=")
        matching = [(option, flags) for option, flags in declared if argument in flags]
        if not matching:
            unknown.append(f"{argument}{separator}{attached_value}")
            continue
        [(option, flags)] = matching
        if "?" in option:
            values[_option_name(flags)] = True
            continue
        option_values = [attached_value] if separator else []
        while not separator and remaining and not remaining[0].startswith("-") and ("+" in option or not option_values):
            option_values.append(remaining.pop(0))
        option_values = [_expand_file(value) for value in option_values]
        if not option_values:
            expected = "at least one argument" if "+" in option else "one argument"
            raise AzError(f"argument {'/'.join(flags)}: expected {expected}", 2)
        values[_option_name(flags)] = option_values if "+" in option else option_values[0]
    if unknown:
        raise AzError(f"unrecognized arguments: {' '.join(unknown)}", 2)
    missing = ["/".join(flags) for option, flags in declared if "!" in option and values[_option_name(flags)] is None]
    if missing:
        raise AzError(f"the following arguments are required: {', '.join(missing)}", 2)
    values["output"] = values["output"] or "json"
    if values["output"] not in {"json", "tsv", "none"}:
        raise AzError(f"'{values['output']}' is not a valid value for '--output'.", 2)
    return ParsedOptions(values)


def _expand_file(value: str) -> str:
    """The content of the file in `@FILE`, as `az` does for the value of every option."""
    if not value.startswith("@"):
        return value
    try:
        with open(value[1:]) as file:  # noqa: PTH123  # importing pathlib takes longer than a whole call
            return file.read()
    except OSError:
        return value


def _option_name(flags: list[str]) -> str:
    return flags[0].removeprefix("--").replace("-", "_")
