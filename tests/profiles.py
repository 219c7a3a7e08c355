"""How many examples Hypothesis tries: a few in every run, thousands with `--hypothesis-profile=fuzz`."""

from hypothesis import HealthCheck, settings

EVERY_TIME = "untimed"
FUZZ = "fuzz"


def register() -> None:
    """Make both profiles known, and take the first where the command line names none. Examples take as long as they
    take: times are not what these tests are about, and machines are busy."""
    settings.register_profile(EVERY_TIME, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile(FUZZ, settings.get_profile(EVERY_TIME), max_examples=2000, print_blob=True)
    settings.load_profile(EVERY_TIME)


def examples(every_time: int, fuzz: int) -> int:
    """For tests whose examples cost more than those of a pure function."""
    return fuzz if settings.get_current_profile_name() == FUZZ else every_time
