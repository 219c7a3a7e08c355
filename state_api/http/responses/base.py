"""The base class of all response bodies, and their format of times."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from state_api.domain.instants import Instant, format_instant

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339 in UTC.")]


class ResponseModel(BaseModel):
    """A response body, or a part of one. Its members are camelCase in JSON."""

    # Each validator is built at its first use, so that a cold start does not wait for all of them.
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", defer_build=True)


def format_optional_instant(instant: Instant | None) -> str | None:
    """`instant` as RFC 3339; None if it is None."""
    return None if instant is None else format_instant(instant)
