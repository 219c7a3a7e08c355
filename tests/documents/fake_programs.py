"""Stand-ins for `func`, `gh`, `make` and `pipx`. Each checks its arguments as the real program does, and fails for
arguments that it does not know.

They start often, so this module imports little.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def _run_func(arguments: list[str], cloud: Path) -> None:
    """Run `func azure functionapp publish`.

    It needs a Function App that exists, and a host.json in the working directory."""
    parser = argparse.ArgumentParser(prog="func")
    parser.add_argument("words", nargs=3, choices=["azure", "functionapp", "publish"])
    parser.add_argument("app")
    parser.add_argument("--python", action="store_true")
    parser.add_argument("--slot", default="production")
    options = parser.parse_args(arguments)
    if not Path("host.json").is_file():
        sys.exit("Unable to find project root. Expecting to find one of host.json")
    state = json.loads(cloud.read_text())
    if options.app not in state["apps"]:
        sys.exit(f'Can\'t find app with name "{options.app}"')
    state["apps"][options.app]["slots"][options.slot]["package"] = "published"
    cloud.write_text(json.dumps(state))
    print("Deployment completed successfully.")


def _run_gh(arguments: list[str], cloud: Path) -> None:
    """Run `gh secret set`, `gh variable set` or `gh workflow run`. A secret comes through stdin, as it must not be an
    argument."""
    parser = argparse.ArgumentParser(prog="gh")
    commands = parser.add_subparsers(dest="command", required=True)
    for kind in ("secret", "variable"):
        setter = commands.add_parser(kind).add_subparsers(required=True).add_parser("set")
        setter.add_argument("name")
        if kind == "variable":
            setter.add_argument("--body", "-b", required=True)
        setter.add_argument("--env", "-e")
    runner = commands.add_parser("workflow").add_subparsers(required=True).add_parser("run")
    runner.add_argument("workflow")
    runner.add_argument("--field", "-f", action="append")
    options = parser.parse_args(arguments)
    if options.command == "workflow" and not (ROOT / "pipelines" / "github" / options.workflow).is_file():
        sys.exit(f"could not find any workflows named {options.workflow}")
    if options.command == "secret" and not sys.stdin.read().strip():
        sys.exit("the secret is empty")
    if options.command == "variable" and not options.body:
        sys.exit("the body is empty")


def _run_make(arguments: list[str], cloud: Path) -> None:
    """Run make targets, which must exist. `make run` starts the server of the test. Other targets do nothing here."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in arguments:
        if target not in targets:
            sys.exit(f"make: *** No rule to make target '{target}'.  Stop.")
        cloud.with_name(f"make-{target}").touch()


def _run_pipx(arguments: list[str], cloud: Path) -> None:
    """Run `pipx run build --wheel`, which creates an empty wheel, or `pipx install`, which needs an existing file."""
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "state_api" / "__init__.py").read_text(), re.MULTILINE)
    wheel = Path("dist", f"safe_deploy-{version}-py3-none-any.whl")
    if arguments[:3] == ["run", "build", "--wheel"]:
        wheel.parent.mkdir(exist_ok=True)
        wheel.touch()
        print(f"Successfully built {wheel.name}")
    elif arguments[0] == "install" and len(arguments) == 2 and Path(arguments[1]).is_file():
        print("  installed package safe-deploy")
    else:
        sys.exit(f"pipx: cannot do {arguments}")


if __name__ == "__main__":
    programs = {"func": _run_func, "gh": _run_gh, "make": _run_make, "pipx": _run_pipx}
    programs[sys.argv[1]](sys.argv[3:], Path(sys.argv[2]))
