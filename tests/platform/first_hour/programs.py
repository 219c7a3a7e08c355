"""The programs that the guide's commands find: `git`, `curl`, `jq` and `openssl` as they are, `safe-deploy` from the
clone, and stand-ins for `az`, `azd`, `gh` and `pipx`.

The address of the state server leads to the Functions host on this machine."""

import sys
from pathlib import Path

from tests.documents.installed_programs import install_programs
from tests.pipelines.fake_gh import install_fake_gh

_RUN_SAFE_DEPLOY = """
import sys, httpx
send = httpx.HTTPTransport.handle_request

def send_to_this_machine(self, request):
    address = httpx.URL({url!r})
    if request.url.host.endswith(".azurewebsites.net"):
        request.url = request.url.copy_with(scheme="http", host=address.host, port=address.port)
    return send(self, request)

httpx.HTTPTransport.handle_request = send_to_this_machine
from safe_deploy.cli import main
sys.argv[0] = "safe-deploy"
main()
"""

_SAFE_DEPLOY = """#!/bin/bash
PYTHONPATH={clone} exec {python} {script} "$@"
"""

_CURL = """#!/bin/bash
arguments=()
for argument; do
  arguments+=("$(sed -E 's#https://state-[a-z0-9]+\\.azurewebsites\\.net#{url}#' <<<"$argument")")
done
exec /usr/bin/curl "${{arguments[@]}}"
"""


def install_programs_of_the_hour(folder: Path, *, clone: Path, cloud: Path, github: Path, url: str) -> None:
    """Write the programs into `folder`. `url` is the address of the server on this machine."""
    install_programs(folder, cloud=cloud, fork_server_address=Path("/nonexistent"))
    install_fake_gh(folder, github)
    script = folder / ".safe-deploy.py"
    script.write_text(_RUN_SAFE_DEPLOY.format(url=url))
    for name, text in {
        "safe-deploy": _SAFE_DEPLOY.format(clone=clone, python=sys.executable, script=script),
        "curl": _CURL.format(url=url),
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
