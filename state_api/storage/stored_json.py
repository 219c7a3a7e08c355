"""The base of the JSON that rows hold. Each model names its own members, so that a rename in the domain changes nothing
in the storage."""

from typing import Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from state_api.domain.instants import Instant, format_instant, parse_instant


class StoredModel(BaseModel):
    """A JSON object in a row, with camelCase members. Times are RFC 3339 texts, as in the columns of all rows.

    No member has a default: a row without one of its members was not written under its schema number, and reading it
    raises ValidationError. Raise the number in `schema.py` when a member is added, renamed or removed.
    """

    # Building a validator takes some milliseconds, so a cold start leaves it to the first use.
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, frozen=True, defer_build=True
    )

    def to_json(self) -> str:
        """The JSON text, with camelCase members."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The object in a JSON text. Raises ValidationError, which is a ValueError."""
        return cls.model_validate_json(text)


def format_optional_instant(instant: Instant | None) -> str | None:
    return None if instant is None else format_instant(instant)


def parse_optional_instant(text: str | None) -> Instant | None:
    return None if text is None else parse_instant(text)
