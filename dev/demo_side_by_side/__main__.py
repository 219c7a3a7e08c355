"""Runs the demo of releases side by side: `python -m dev.demo_side_by_side`."""

import sys

from harness.interruption import note_interruptions

if __name__ == "__main__":
    note_interruptions()
    # Imported only now, because these imports take a second, in which Ctrl-C may come.
    from dev.demo_side_by_side.command_line import main

    sys.exit(main())
