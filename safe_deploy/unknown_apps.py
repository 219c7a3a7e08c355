"""What to say when the server does not know the app of a command: the names of apps that are close to it. Pure."""

from collections.abc import Sequence
from difflib import SequenceMatcher

MAX_NAMES = 5
_MIN_SIMILARITY = 0.6
"""As `difflib.get_close_matches` by default: more than half of the characters agree."""


def describe_unknown_app(name: str, known_names: Sequence[str]) -> str:
    """A sentence about an app that the server does not know. `known_names` are those that the key may see."""
    similar_names = find_similar_names(name, known_names)
    if similar_names:
        return f"the server has no app {name}. Close to it: {', '.join(similar_names)}"
    if known_names and len(known_names) <= MAX_NAMES:
        return f"the server has no app {name}. It has {', '.join(known_names)}"
    return f"the server has no app {name}"


def describe_apps_of_key(refusal: str, name: str, known_names: Sequence[str]) -> str:
    """The refusal of a key that is bound to other apps, with the names of these: those that are close, or the first."""
    names = find_similar_names(name, known_names) or list(known_names[:MAX_NAMES])
    return f"{refusal}. This key is for {', '.join(names)}{', …' if len(names) < len(known_names) else ''}"


def find_similar_names(name: str, known_names: Sequence[str]) -> list[str]:
    """The names that are close to this one, the closest first, at most MAX_NAMES. Case does not count."""
    scored = sorted(((_measure_similarity(name, known), known) for known in known_names), key=lambda pair: -pair[0])
    return [known for similarity, known in scored if similarity >= _MIN_SIMILARITY][:MAX_NAMES]


def _measure_similarity(name: str, known: str) -> float:
    """The share of characters that agree, from 0 to 1. A name that begins like the other one is close, too."""
    first, second = name.lower(), known.lower()
    ratio = SequenceMatcher(None, first, second).ratio()
    is_beginning = first.startswith(second) or second.startswith(first)
    return max(ratio, _MIN_SIMILARITY) if is_beginning else ratio
