"""Regular expressions for routers without code: RE2 syntax, which has no lookahead.

They match text in which letters may be of either case and percent-encoded, as `safe_deploy.routers.rules` decodes it.
"""

from safe_deploy.routers.rules import (
    CONTROLS,
    EVENT_CONTROL,
    MANAGEMENT_PATH,
    STARTS_PATH,
    TASK_HUB_PARAMETER,
)

_QUERY = "(?:\\?.*)?"


def build_management_path_pattern() -> str:
    """Matches path and query of any call to the management API, those that start orchestrations included."""
    return f"{encoded(MANAGEMENT_PATH)}[^?]*{_QUERY}"


def build_starts_pattern() -> str:
    """Matches path and query of requests that start orchestrations."""
    return f"{encoded(STARTS_PATH)}.*"


def build_purge_pattern() -> str:
    """Matches path and query of calls that remove the history of instances, if their method is DELETE and
    `build_coded_separator_pattern` does not match: see `rules.PURGE_PATTERN`."""
    return f"{encoded(MANAGEMENT_PATH + 'instances')}(?:/[^/?]*)?{_QUERY}"


def build_control_pattern() -> str:
    """Matches path and query of calls that change an instance that has not ended, if `build_coded_separator_pattern`
    does not match: see `rules.CONTROL_PATTERN`."""
    # The id may begin with a percent sign, unless that encodes `@`.
    instance_id = "(?:[^@%/?][^/?]*|%(?:[^4/?][^/?]*)?|%4(?:[^0/?][^/?]*)?)"
    controls = "|".join([*map(encoded, CONTROLS), f"{encoded(EVENT_CONTROL)}[^/?]+"])
    return f"{encoded(MANAGEMENT_PATH + 'instances/')}{instance_id}/(?:{controls}){_QUERY}"


def build_coded_separator_pattern() -> str:
    """Matches path and query whose path has a backslash or an encoded separator: see `rules.CODED_SEPARATOR`."""
    return f"[^?]*{_CODED_SEPARATOR}[^?]*{_QUERY}"


def build_dot_segment_pattern() -> str:
    """Matches path and query whose path has a segment `.` or `..`: see `rules.DOT_SEGMENT_PATTERN`."""
    separator = f"(?:/|{_CODED_SEPARATOR})"
    return f"[^?]*{separator}(?:[.]|{_encoded_repeatedly('.')}){{1,2}}(?:{separator}[^?]*)?{_QUERY}"


def build_task_hub_pattern(task_hub: str | None = None) -> str:
    """Matches path and query whose first parameter with the task hub's name has this value; None for any value."""
    value = "[^&]*" if task_hub is None else encoded(task_hub)
    return f"[^?]*\\?(?:{_build_other_parameter()}&)*{encoded(TASK_HUB_PARAMETER)}={value}(?:&.*)?"


def encoded(text: str) -> str:
    """Matches printable ASCII text in any case, each character as it is or percent-encoded."""
    return "".join(f"(?:{'|'.join(_forms(character))})" for character in text)


def _forms(character: str) -> list[str]:
    """The patterns of one character: as it is, and percent-encoded."""
    cases = sorted({character.lower(), character.upper()})
    plain = f"[{''.join(cases)}]" if len(cases) > 1 else f"[{character}]"
    return [plain, *(f"%{_hex_pattern(case)}" for case in cases)]


def _hex_pattern(character: str) -> str:
    """The two hexadecimal digits of a character, each in any case."""
    return "".join(_digit_class(digit) for digit in f"{ord(character):02x}")


def _digit_class(*digits: str) -> str:
    """The character class of a regular expression that matches these hexadecimal digits in either case."""
    return f"[{''.join(sorted({case for digit in digits for case in (digit.lower(), digit.upper())}))}]"


def _encoded_repeatedly(character: str) -> str:
    """Matches a character that is percent-encoded once or more often."""
    return f"{encoded('%')}(?:{encoded('25')})*{encoded(f'{ord(character):02x}')}"


_CODED_SEPARATOR = f"(?:[\\\\]|{_encoded_repeatedly('/')}|{_encoded_repeatedly(chr(92))})"


def _build_other_parameter() -> str:
    """Matches a query parameter that does not name the task hub, from its first character to before the next `&`.

    Such a parameter differs from the name at some character, ends within it, or has another character than `=` after
    it.
    """
    alternatives = []
    for length, character in enumerate(TASK_HUB_PARAMETER):
        alternatives.append(f"{encoded(TASK_HUB_PARAMETER[:length])}(?:{_build_difference(character)})?")
    # The whole name without a value is no task hub either.
    alternatives.append(f"{encoded(TASK_HUB_PARAMETER)}(?:[^=&][^&]*)?")
    return f"(?:{'|'.join(alternatives)})"


def _build_difference(character: str) -> str:
    """Matches the rest of a parameter that does not begin with this letter, in any case or encoding."""
    codes = [f"{ord(case):02x}" for case in (character.lower(), character.upper())]
    first_digits = sorted({code[0] for code in codes})
    alternatives = [f"[^&%{character.lower()}{character.upper()}][^&]*", "%", f"%{_not_in(first_digits)}[^&]*"]
    for first in first_digits:
        second_digits = [code[1] for code in codes if code[0] == first]
        alternatives += [f"%{_digit_class(first)}", f"%{_digit_class(first)}{_not_in(second_digits)}[^&]*"]
    return "|".join(alternatives)


def _not_in(digits: list[str]) -> str:
    """Matches any character of a parameter but these hexadecimal digits."""
    return f"[^&{_digit_class(*digits)[1:-1]}]"
