"""A Function App at the fake `az`: app shop in group shop-rg, with v41 in production and v42 in slot staging."""

import subprocess
from pathlib import Path

from tests.pipelines.fake_cloud import FakeAzure, install_fake_az

SECRET = "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey=c2VjcmV0c2VjcmV0"
"""The value of an app setting that must never be printed."""

SWAP = ["az", "functionapp", "deployment", "slot", "swap"]


def create_fake_function_app(folder: Path) -> FakeAzure:
    """Install the fake `az` into `folder/bin`."""
    install_fake_az(folder / "bin", folder / "cloud.json")
    fake_azure = FakeAzure(folder / "cloud.json")
    production = {"TASK_HUB": "v41", "AzureWebJobsStorage": SECRET, "NAME": "production"}
    staging = {"TASK_HUB": "v42", "AzureWebJobsStorage": SECRET, "NAME": "staging"}
    slots = {
        "production": {"settings": production, "package": "41.zip"},
        "staging": {"settings": staging, "package": "42.zip"},
    }
    fake_azure.reset({"shop": {"resourceGroup": "shop-rg", "sticky": ["NAME"], "slots": slots}})
    return fake_azure


def path_of(fake_azure: FakeAzure) -> str:
    """The PATH on which `az` is the fake one."""
    return f"{fake_azure.path.parent / 'bin'}:/usr/bin:/bin"


def az(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `az` from this PATH."""
    command = [f"{path.split(':', maxsplit=1)[0]}/az", *arguments]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=False)
