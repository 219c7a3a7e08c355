"""The registry of task hubs: claims and their proofs."""

import pytest

from state_api.app import StateServer
from state_api.domain.errors import TaskHubAlreadyUsed, TaskHubInUse
from state_api.domain.instants import parse_instant
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis, TaskHubClaim
from state_api.storage.tables import TASK_HUBS_TABLE
from state_api.storage.task_hubs import TaskHubStore

pytestmark = pytest.mark.anyio

PROOF = OwnershipProof(
    ProofBasis.NEW,
    ("https://shop.table.core.windows.net", "https://shop.queue.core.windows.net"),
    parse_instant("2026-11-27T02:45:26.1269912Z"),
)


@pytest.fixture
def registry(server: StateServer) -> TaskHubStore:
    """The registry of task hubs. A new one has four shards."""
    return TaskHubStore(server.tables, shards=4)


async def test_a_claim_stores_its_app_and_its_proof(registry: TaskHubStore, hub: str) -> None:
    claimed = await registry.claim(hub, TaskHubClaim("shop", PROOF))
    assert (claimed.app, claimed.proof) == ("shop", PROOF)
    assert await registry.get(hub.upper()) == claimed


async def test_repeating_a_claim_writes_nothing(registry: TaskHubStore, server: StateServer, hub: str) -> None:
    await registry.claim(hub, TaskHubClaim("shop", PROOF))
    table = server.tables.client(TASK_HUBS_TABLE)
    etag_before = (await table.get_entity("hub", hub)).metadata["etag"]
    await registry.claim(hub, TaskHubClaim("shop", PROOF))
    await registry.claim(hub, TaskHubClaim("shop"))
    assert (await table.get_entity("hub", hub)).metadata["etag"] == etag_before


async def test_a_claim_without_a_proof_keeps_the_one_on_record(registry: TaskHubStore, hub: str) -> None:
    await registry.claim(hub, TaskHubClaim("shop", PROOF))
    assert (await registry.claim(hub, TaskHubClaim("shop"))).proof == PROOF


async def test_a_newer_proof_replaces_the_one_on_record(registry: TaskHubStore, hub: str) -> None:
    await registry.claim(hub, TaskHubClaim("shop", PROOF))
    adopted = OwnershipProof(ProofBasis.ADOPTED, ("https://moved.table.core.windows.net",), PROOF.at)
    assert (await registry.claim(hub, TaskHubClaim("SHOP", adopted))).proof == adopted


async def test_a_refused_claim_does_not_change_the_proof_on_record(registry: TaskHubStore, hub: str) -> None:
    await registry.claim(hub, TaskHubClaim("shop"))
    with pytest.raises(TaskHubInUse):
        await registry.claim(hub, TaskHubClaim("other", PROOF))
    await registry.close(hub)
    with pytest.raises(TaskHubAlreadyUsed):
        await registry.claim(hub, TaskHubClaim("shop", PROOF))
    record = await registry.get(hub)
    assert record is not None
    assert (record.app, record.proof) == ("shop", None)
