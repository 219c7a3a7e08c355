"""The events of `safe-deploy doctor`: which events they are, and how long the server remembers them."""

import pytest

from state_api.domain.instants import Instant
from state_api.domain.names import is_entity
from state_api.domain.task_hubs.delivery_checks import (
    CHECK_LIFETIME,
    MAX_REMEMBERED_CHECKS,
    DeliveryCheck,
    current_checks,
    find_check_id,
    remember_check,
)

ID = "0123456789abcdef0123456789abcdef"


def check(number: int, recorded_at: int = 0) -> DeliveryCheck:
    """A delivery check with an id of its own."""
    return DeliveryCheck(f"{number:032x}", Instant(recorded_at), Instant(recorded_at))


def test_a_delivery_check_is_an_entity_which_never_blocks() -> None:
    instance_id = f"@safe-deploy-doctor@{ID}"
    assert find_check_id(instance_id) == ID
    assert is_entity(instance_id)


@pytest.mark.parametrize(
    "instance_id",
    [
        ID,
        f"safe-deploy-doctor@{ID}",
        "@safe-deploy-doctor@",
        f"@safe-deploy-doctor@{ID}0",
        f"@safe-deploy-doctor@{ID.upper()}",
        f"@Safe-Deploy-Doctor@{ID}",
        f"@safe-deploy-doctor@{ID}\n",
        f"@stock@{ID}",
    ],
)
def test_every_other_instance_belongs_to_an_app(instance_id: str) -> None:
    assert find_check_id(instance_id) is None


def test_the_latest_delivery_check_comes_first() -> None:
    assert remember_check([check(1, 1)], check(2, 2)) == (check(2, 2), check(1, 1))


def test_a_delivery_check_that_arrives_again_stays_as_it_was_recorded() -> None:
    assert remember_check([check(1, 1)], check(1, 9)) == (check(1, 1),)


def test_the_oldest_delivery_checks_are_forgotten() -> None:
    known = tuple(check(number, number) for number in range(MAX_REMEMBERED_CHECKS, 0, -1))
    arrived = check(99, 99)
    assert remember_check(known, arrived) == (arrived, *known[:-1])


def test_a_delivery_check_is_remembered_for_its_lifetime() -> None:
    assert remember_check([check(1)], check(2, CHECK_LIFETIME)) == (check(2, CHECK_LIFETIME),)
    assert current_checks([check(1)], Instant(CHECK_LIFETIME - 1)) == (check(1),)
    assert current_checks([check(1)], Instant(CHECK_LIFETIME)) == ()
