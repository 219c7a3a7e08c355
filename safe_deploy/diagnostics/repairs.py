"""The loop of `doctor --fix`: one question for each repair, and the check again after it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from safe_deploy.diagnostics.results import CheckResult
from safe_deploy.errors import CommandError


def repair_results(
    results: Iterable[CheckResult], *, confirm: Callable[[str], bool], report: Callable[[str], None]
) -> Iterator[CheckResult]:
    """The results after the repairs to which `confirm` has agreed.

    The results are taken one by one, so that a check after a repair sees what the repair has changed. Each check is
    repaired once at most.
    """
    repaired: set[str] = set()
    pending = [iter(results)]
    while pending:
        result = next(pending[-1], None)
        if result is None:
            pending.pop()
            continue
        if result.repair is None or result.check in repaired:
            yield result
            continue
        repaired.add(result.check)
        report(f"{result.check}: {result.message}")
        if not confirm(result.repair.question):
            report(f"{result.check}: nothing was changed")
            yield result
            continue
        try:
            done = result.repair.run()
        except CommandError as error:
            yield replace(result, message=f"{result.message}. It could not be repaired: {error.message}", repair=None)
        else:
            report(f"{result.check}: {done}")
            pending.append(_add_repair(result.repair.check_again(), result.check, done))


def _add_repair(results: Iterable[CheckResult], check: str, done: str) -> Iterator[CheckResult]:
    """The results, with what was done in that of the check which was repaired."""
    for result in results:
        yield replace(result, repaired=done) if result.check == check else result
