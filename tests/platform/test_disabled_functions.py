"""Which app settings disable a function on the real Functions host. `safe-deploy` reads them as the host does."""

from collections import Counter
from pathlib import Path

from harness.functions_host import MASTER_KEY, run_functions_host
from harness.processes import wait_until
from safe_deploy.azure_function_apps import FunctionApps
from state_api.settings import StorageSettings
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.fake_function_app import path_of

TIMERS_FOLDER = Path(__file__).parent / "timers"

DISABLED = {
    "Dots": {"AzureWebJobs.Dots.Disabled": "true"},
    "Underscores": {"AzureWebJobs_Underscores_Disabled": "1"},
    "Send_Invoices": {"AzureWebJobs_Send_Invoices_Disabled": "TRUE"},
    "AnyCase": {"azurewebjobs.anycase.disabled": "True"},
    "OneOfTwo": {"AzureWebJobs.OneOfTwo.Disabled": "false", "AzureWebJobs_OneOfTwo_Disabled": "true"},
}
ENABLED = {
    "NoSetting": {},
    "Off": {"AzureWebJobs.Off.Disabled": "false"},
    "Zero": {"AzureWebJobs.Zero.Disabled": "0"},
    "Word": {"AzureWebJobs.Word.Disabled": "yes"},
    "Empty": {"AzureWebJobs.Empty.Disabled": ""},
}
"""The settings of each function."""


def test_safe_deploy_takes_those_functions_for_disabled_that_the_host_does_not_run(
    storage: StorageSettings, tmp_path: Path
) -> None:
    assert storage.connection_string is not None
    settings = {name: value for own in [*DISABLED.values(), *ENABLED.values()] for name, value in own.items()}
    runs = tmp_path / "runs"
    runs.touch()
    variables = {
        "AzureWebJobsStorage": storage.connection_string.get_secret_value(),
        "TIMERS": ",".join([*DISABLED, *ENABLED]),
        "RUNS_FILE": str(runs),
        **settings,
    }
    with run_functions_host(TIMERS_FOLDER, tmp_path / "host", variables) as host, host.client() as client:
        listed = client.get("/admin/functions", headers={"x-functions-key": MASTER_KEY}).raise_for_status().json()
        wait_until(
            lambda: min(Counter(runs.read_text().split())[name] for name in ENABLED) >= 3,
            "each enabled function has run three times",
        )
    assert {function["name"] for function in listed if function["isDisabled"]} == set(DISABLED)
    assert set(runs.read_text().split()) == set(ENABLED)

    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    fake_azure = FakeAzure(tmp_path / "cloud.json")
    fake_azure.reset({"shop-150": {"resourceGroup": "shop-rg", "slots": {"production": {"settings": settings}}}})
    function_apps = FunctionApps("shop-rg", environment={"PATH": path_of(fake_azure)})
    assert {name.lower() for name in function_apps.list_disabled("shop-150")} == {name.lower() for name in DISABLED}
