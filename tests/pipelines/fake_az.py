"""A fake `az`: a program whose output and exit codes are those of the Azure CLI 2.91, as far as they are known.

The program that `install_fake_az` writes calls `main`. Pipelines call it often, so its modules import little."""

from __future__ import annotations

import json
import os
import sys
import time

from tests.pipelines.fake_az_commands import COMMANDS
from tests.pipelines.fake_az_options import AzError, parse_options
from tests.pipelines.fake_cloud import HANGING_SUFFIX, locked_cloud, record_call
from tests.pipelines.jmespath_query import evaluate_query

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from tests.pipelines.fake_az_commands import Effect
    from tests.pipelines.fake_az_options import ParsedOptions


def main(arguments: list[str], path: str) -> int:
    """Run one call of `az`. Returns its exit code."""
    words = list(arguments)
    for index, argument in enumerate(arguments):
        if argument.startswith("-"):
            words = arguments[:index]
            break
    command = COMMANDS.get(" ".join(words))
    key = command[0] if command else ""
    fault = record_call(path, arguments, key)
    if fault.get("warning"):
        sys.stderr.write(f"WARNING: {fault['warning']}\n")
    try:
        if command is None:
            _raise_unrecognized(words)
        else:
            options = parse_options(" ".join(words), command[1], arguments[len(words) :])
            result = _run_command(path, fault, command[2], options)
            if fault.get("output") is None:
                _print_result(result, options)
            else:
                sys.stdout.write(fault["output"])
    except AzError as error:
        sys.stdout.write(fault.get("output") or "")
        sys.stderr.write(f"ERROR: {error.message}\n")
        return error.code
    return 0


def _run_command(path: str, fault: dict[str, Any], effect: Effect, options: ParsedOptions) -> Any:
    """Run the effect of a command, and inject the fault that a test has set. Raises AzError."""
    fails = fault.get("exit_code") is not None
    time.sleep(fault.get("delay_before_seconds") or 0)
    while (awaited_file := fault.get("wait_for_file")) and not os.path.exists(awaited_file):  # noqa: PTH110 (as quick as it gets)
        time.sleep(0.02)
    if fails and not fault.get("takes_effect"):
        raise _fault_error(fault)
    if fault.get("hang") == "before":
        _hang(path)
    # Wait without the lock, so that other calls continue. One of them may stop this process.
    with locked_cloud(path) as state:
        result = effect(state, options)
    time.sleep(fault.get("delay_after_seconds") or 0)
    if fault.get("hang") == "after":
        _hang(path)
    if fails:
        raise _fault_error(fault)
    return result


def _hang(path: str) -> None:
    """Show the test by a file that this call hangs, and wait until the test kills it."""
    with open(os.path.splitext(path)[0] + HANGING_SUFFIX, "w"):  # noqa: PTH122, PTH123 (as quick as it gets)
        pass
    while True:
        time.sleep(60)


def _fault_error(fault: dict[str, Any]) -> AzError:
    """The error that a test has chosen for a command."""
    return AzError(fault.get("message") or "The service is unavailable.", fault["exit_code"])


def _raise_unrecognized(words: list[str]) -> NoReturn:
    """Raises AzError with the first word that no command has at its position."""
    ends = [end for end in range(1, len(words)) if any(name.split()[:end] == words[:end] for name in COMMANDS)]
    wrong = words[max(ends, default=0)] if words else ""
    raise AzError(f"'{wrong}' is misspelled or not recognized by the system.", 2)


def _print_result(result: Any, options: ParsedOptions) -> None:
    """Print the result as `--query` and `--output` ask: JSON, or values separated by tabs."""
    if options.query:
        result = evaluate_query(options.query, result)
    if result is None or options.output == "none":
        return
    if options.output == "json":
        print(json.dumps(result, indent=2))
        return
    for row in result if isinstance(result, list) else [result]:
        cells = row.values() if isinstance(row, dict) else row if isinstance(row, list) else [row]
        print("\t".join("" if isinstance(cell, dict) else str(cell) for cell in cells))
