"""PutApp adopts existing task hubs of its app, on record, so that Cleanup may delete them."""

from typing import Any

import httpx
import pytest

from state_api.domain.errors import StorageUnavailable
from state_api.settings import StorageSettings
from state_api.storage.apps import AppStore
from tests.backends.azure_storage_task_hub import ProviderAccount
from tests.conftest import new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_proof,
    get_staging,
    post_cleanup,
    post_staging,
    put_app,
    retire_task_hub,
    stage_and_swap,
)

pytestmark = pytest.mark.anyio


async def test_put_app_adopts_an_existing_task_hub_and_records_it(
    http: httpx.AsyncClient, app: str, storage: StorageSettings, provider_account: ProviderAccount, hub: str
) -> None:
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    slots = {"staging": {"taskHub": hub, "version": "1"}}
    assert (
        await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    ).status_code == 200
    (record,) = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    proof = await get_proof(http, hub)
    assert (proof["basis"], len(proof["addresses"])) == ("Adopted", 3)
    assert record["details"]["adopted"] == {"taskHubs": [hub], "addresses": proof["addresses"]}
    assert (await get_staging(http, app))["assurance"] == "verified"
    await stage_and_swap(http, app, new_hub_name())
    (result,) = await post_cleanup(http, app)
    assert (result["taskHub"], result["outcome"]) == (hub, "Removed")
    assert await provider_account.list_artifacts(hub) == []


async def test_an_adoption_that_could_not_be_recorded_is_no_proof(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage fails when PutApp saves the app, and the caller repeats the request."""
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    slots = {"staging": {"taskHub": hub}}
    assert (await put_app(http, app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    adoption: dict[str, Any] = {"taskHubs": PROVIDER_CONFIG, "adoptTaskHubs": [hub]}

    async def fail_to_commit(*arguments: object, **options: object) -> bool:
        raise StorageUnavailable("the state storage cannot be used at the moment")

    with monkeypatch.context() as patched:
        patched.setattr(AppStore, "commit", fail_to_commit)
        assert_problem(await put_app(http, app, **adoption), 503, "StorageUnavailable")
    assert await get_proof(http, hub) is None
    assert (await put_app(http, app, **adoption)).status_code == 200
    newest, *_ = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    assert newest["details"]["adopted"]["taskHubs"] == [hub]
    assert (await get_proof(http, hub))["basis"] == "Adopted"


async def test_put_app_adopts_a_retired_task_hub_that_the_request_names(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """The task hub was claimed while the app had no provider, and retired later."""
    assert (await post_staging(http, app, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Completed"))
    await retire_task_hub(http, app, hub)
    problem = assert_problem(await put_app(http, app, adoptTaskHubs=[hub]), 400, "InvalidRequest")
    assert "send taskHubs in the same request" in problem["detail"]
    await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    assert [result["outcome"] for result in await post_cleanup(http, app, dryRun=True)] == ["NotOwned"]
    adopted = await put_app(http, app, adoptTaskHubs=[hub.upper()])
    assert adopted.status_code == 200
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert newest["details"]["adopted"]["taskHubs"] == [hub]
    assert (await get_proof(http, hub))["basis"] == "Adopted"
    repeated = await put_app(http, app, adoptTaskHubs=[hub])
    assert repeated.headers["etag"] == adopted.headers["etag"], "a task hub that is proven is not adopted again"
    assert [result["outcome"] for result in await post_cleanup(http, app)] == ["Removed"]
    assert await provider_account.list_artifacts(hub) == []


async def test_an_app_can_adopt_only_its_own_task_hubs(
    http: httpx.AsyncClient, app_with_provider: str, hub: str
) -> None:
    problem = assert_problem(await put_app(http, app_with_provider, adoptTaskHubs=[hub]), 400, "InvalidRequest")
    assert problem["detail"] == (
        f"app {app_with_provider} cannot adopt task hub {hub}: none of its slots holds it, and it is not retired. "
        "Put it into a slot in the same request, or leave it out of adoptTaskHubs"
    )
    other = f"{app_with_provider}-other"
    assert (await post_staging(http, app_with_provider, hub)).status_code == 200
    await put_app(http, other, taskHubs=PROVIDER_CONFIG)
    assert_problem(await put_app(http, other, adoptTaskHubs=[hub]), 400, "InvalidRequest")
    assert_problem(await put_app(http, other, slots={"staging": {"taskHub": hub}}), 409, "TaskHubInUse")


async def test_sending_the_body_of_get_app_to_put_app_adopts_nothing(
    http: httpx.AsyncClient, app: str, provider_account: ProviderAccount, hub: str
) -> None:
    """The changed `taskHubs` may lead to a foreign task hub of the same name, so the request proves nothing."""
    assert (await post_staging(http, app, hub)).status_code == 200
    await provider_account.add_task_hub(hub, ("their-order", "Completed"))
    app_document = (await http.get(f"/api/apps/{app}")).json()
    changed_document = {**app_document, "taskHubs": PROVIDER_CONFIG}
    assert (await http.put(f"/api/apps/{app}", json=changed_document)).status_code == 200
    assert await get_proof(http, hub) is None
