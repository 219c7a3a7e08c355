"""How many examples Hypothesis tries: a few in every run, thousands with `--hypothesis-profile=fuzz`."""

from hypothesis import HealthCheck, settings

DEFAULT_PROFILE = "untimed"
FUZZ_PROFILE = "fuzz"


def register_profiles() -> None:
    """Make both profiles known, and take the first where the command line names none. Examples take as long as they
    take: times are not what these tests are about, and machines are busy."""
    settings.register_profile(DEFAULT_PROFILE, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile(FUZZ_PROFILE, settings.get_profile(DEFAULT_PROFILE), max_examples=2000, print_blob=True)
    settings.load_profile(DEFAULT_PROFILE)


def example_count(by_default: int, fuzz: int) -> int:
    """For tests whose examples cost more than those of a pure function."""
    return fuzz if settings.get_current_profile_name() == FUZZ_PROFILE else by_default
