"""The programs that the commands of a page find.

`curl` and `safe-deploy` are the real programs. Their requests to the state server's host name go to the server of the
test. Other hosts in Azure cannot be resolved. `az`, `azd`, `func`, `gh`, `make`, `pipx` and `pulumi` are stand-ins.
"""

import sys
from pathlib import Path

from tests.documents.fake_programs import ROOT
from tests.pipelines.fork_server import install_forking_program

_CURL = """#!/bin/bash
# Requests to the server's host name go to the server of the test.
arguments=()
for argument; do
  argument=${argument/"https://$STATE_HOST"/"$STATE_SERVER_URL"}
  if [[ $argument == https://dev.azure.com/* ]]; then body=${!#}; exec jq -c '{id: 7, timeout}' "${body#@}"; fi
  if [[ $argument == https://* ]]; then echo "curl: (6) Could not resolve host: $argument" >&2; exit 6; fi
  arguments+=("$argument")
done
exec /usr/bin/curl "${arguments[@]}"
"""

_SAFE_DEPLOY = """#!/bin/bash
[[ -v SAFE_DEPLOY_SERVER ]] && export SAFE_DEPLOY_SERVER=${SAFE_DEPLOY_SERVER/"https://$STATE_HOST"/"$STATE_SERVER_URL"}
exec %s "$@"
"""

_PYTHON = """#!/bin/bash
PYTHONPATH=%s exec %s -S -m %s "$@"
"""


def install_programs(folder: Path, *, cloud: Path, fork_server_address: Path) -> None:
    """Write all programs into `folder`. `cloud` is the file of the stand-in for Azure."""
    folder.mkdir()
    forking = folder / ".safe-deploy"
    install_forking_program(forking, fork_server_address)
    programs = {
        "curl": _CURL,
        "safe-deploy": _SAFE_DEPLOY % forking,
        "az": _PYTHON % (ROOT, sys.executable, f"tests.documents.fake_azure_resources {cloud}"),
        "azd": _PYTHON % (ROOT, sys.executable, f"tests.infra.fake_azd {cloud}"),
        "pulumi": _PYTHON % (ROOT, sys.executable, f"tests.infra.fake_pulumi {cloud}"),
    }
    for name in ("func", "gh", "make", "pipx"):
        programs[name] = _PYTHON % (ROOT, sys.executable, f"tests.documents.fake_programs {name} {cloud}")
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
