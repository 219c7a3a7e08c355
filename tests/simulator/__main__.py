"""Run random histories of the platform against the real server, and print the results."""

import argparse
import asyncio
import sys

from harness.processes import free_ports
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.settings import StorageSettings
from tests.simulator.mutations import MUTATIONS, apply_mutation
from tests.simulator.runner import run_simulations

_ALL = "all"


def main() -> int:
    """Exit code 1 if a verdict was wrong, a drained task hub did not become Ready, or a mutation was not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--histories", type=int, default=100, metavar="N")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the first history; each further history has the next number"
    )
    parser.add_argument("--stop-at", type=int, metavar="N", help="stop after this number of failed histories")
    parser.add_argument(
        "--mutation",
        action="append",
        choices=[*sorted(MUTATIONS), _ALL],
        help="break the server in this way, and print how soon the simulator notices; may be given several times",
    )
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.histories)
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None):
        storage = StorageSettings.model_validate({"connection_string": ports.connection_string()})
        if options.mutation:
            return _try_mutations(storage, seeds, list(MUTATIONS) if _ALL in options.mutation else options.mutation)
        return _try_server(storage, seeds, options.stop_at)


def _try_server(storage: StorageSettings, seeds: range, stop_at: int | None) -> int:
    """Run the histories of these seeds and print the results. Returns the exit code."""
    results = asyncio.run(run_simulations(storage, seeds, stop_at))
    for failure in results.failures:
        print(failure, file=sys.stderr)
    print(results.markdown_tables())
    if missing := results.missing_cases():
        print(f"cases that did not occur: {', '.join(missing)}\n")
    print(results.summary_line())
    return 1 if results.failures else 0


def _try_mutations(storage: StorageSettings, seeds: range, names: list[str]) -> int:
    """Run the histories against the server with each mutation, until one fails. Returns the exit code."""
    unnoticed = 0
    print("| Mutation | Noticed after histories | Seed | As |\n|---|---:|---:|---|", flush=True)
    for name in names:
        with apply_mutation(name):
            results = asyncio.run(run_simulations(storage, seeds, stop_at=1))
        unnoticed += not results.failures
        row = f"| {name} | not in {results.tally['histories']} | | |"
        if results.failures:
            first = results.failures[0]
            row = f"| {name} | {first.histories} | {first.seed} | {type(first.error).__name__}: {first.error} |"
        print(row, flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
