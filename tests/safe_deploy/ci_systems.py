"""GitHub Actions and Azure Pipelines for a single command: their variables, and the files that they read."""

from pathlib import Path

GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "shop/orders",
    "GITHUB_RUN_ID": "4711",
    "GITHUB_ACTOR": "octocat",
}
GITHUB_RUN = "https://github.com/shop/orders/actions/runs/4711"
AZURE = {
    "TF_BUILD": "True",
    "SYSTEM_COLLECTIONURI": "https://dev.azure.com/shop/",
    "SYSTEM_TEAMPROJECTID": "0807fc91-3b1c-4c5e-9d55-1b1a3d6f2a11",
    "BUILD_BUILDID": "17",
    "BUILD_REQUESTEDFOREMAIL": "anna@shop.example",
}
AZURE_RUN = "https://dev.azure.com/shop/0807fc91-3b1c-4c5e-9d55-1b1a3d6f2a11/_build/results?buildId=17"


def github_environment(folder: Path) -> dict[str, str]:
    """The environment of a job on GitHub, with empty files for outputs and summary in this folder."""
    files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary"}
    for file in files.values():
        file.touch()
    return GITHUB | {name: str(file) for name, file in files.items()}


def read_outputs(folder: Path) -> dict[str, str]:
    """The outputs that a command has set for later steps on GitHub."""
    return dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())
