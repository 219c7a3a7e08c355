"""The number of Hypothesis examples: a few by default, thousands with `--hypothesis-profile=fuzz`."""

from hypothesis import HealthCheck, settings

DEFAULT_PROFILE = "untimed"
FUZZ_PROFILE = "fuzz"


def register_profiles() -> None:
    """Register both profiles and load the default one.

    Examples have no time limit, because tests also run on busy machines."""
    settings.register_profile(DEFAULT_PROFILE, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile(FUZZ_PROFILE, settings.get_profile(DEFAULT_PROFILE), max_examples=2000, print_blob=True)
    settings.load_profile(DEFAULT_PROFILE)


def example_count(by_default: int, fuzz: int) -> int:
    """The number of examples of a test whose examples are slower than a pure function."""
    return fuzz if settings.get_current_profile_name() == FUZZ_PROFILE else by_default
