"""The random tokens of a new release, by which routers and visitors name it."""

import secrets

from state_api.domain.releases.side_by_side.releases import ReleaseTokens


def new_release_tokens() -> ReleaseTokens:
    """Two random tokens of 128 bits."""
    return ReleaseTokens(secrets.token_hex(16), secrets.token_hex(16))
