"""Runs the demo of a gradual rollout: `python -m dev.demo_rollout`."""

import sys

from harness.interruption import note_interruptions

if __name__ == "__main__":
    note_interruptions()
    # Imported only now, because these imports take a second, in which Ctrl-C may come.
    from dev.demo_rollout.command_line import main

    sys.exit(main())
