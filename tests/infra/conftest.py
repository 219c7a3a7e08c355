"""Leaves out the tests of infra/ if the Bicep compiler is missing, or Pulumi; `make test` says so, or sets it up."""

from pathlib import Path

from harness.platform_programs import platform_folder
from tests.infra.pulumi_programs import is_pulumi_set_up

collect_ignore = (
    [] if platform_folder() is not None else [path.name for path in Path(__file__).parent.glob("test_*.py")]
)
if not is_pulumi_set_up():
    collect_ignore.append("test_pulumi.py")
