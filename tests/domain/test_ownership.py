"""The ownership of a task hub: which names can be claimed, what proves a claim, and what the proof covers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.errors import (
    InvalidRequest,
    StagingNotReady,
    TaskHubAlreadyUsed,
    TaskHubInUse,
    TaskHubUnavailable,
)
from state_api.domain.releases.staging import is_staged_in_slot
from state_api.domain.task_hubs.ownership import (
    ExistingArtifacts,
    OwnershipProof,
    ProofBasis,
    ProviderUnavailable,
    explain_not_owned,
    normalize_address,
)
from tests.domain.builders import (
    PROVIDER_CONFIG,
    build_app,
    build_not_ready_verdict,
    build_production_slot,
    build_retired_hub,
    build_slot,
    noon_plus,
)
from tests.domain.transitions import build_register_command, build_stage_command, forget_retired_hubs, register, stage

TABLES, QUEUES, BLOBS = (f"https://shop.{service}.core.windows.net" for service in ("table", "queue", "blob"))
NOTHING_EXISTS = ExistingArtifacts((), (TABLES, QUEUES, BLOBS))
PROOF = OwnershipProof(ProofBasis.ADOPTED, (TABLES, QUEUES), noon_plus(-60))


# Staging


def test_a_claim_on_a_new_name_is_proven_with_basis_addresses_and_time() -> None:
    transition = stage(build_app(), build_stage_command("v42"), existing=NOTHING_EXISTS)
    assert transition.proof == OwnershipProof(ProofBasis.NEW, (TABLES, QUEUES, BLOBS), noon_plus())
    assert transition.new_hubs == ("v42",)


def test_a_name_is_claimed_without_a_proof_if_no_provider_is_asked() -> None:
    transition = stage(build_app(), build_stage_command("v42"))
    assert (transition.proof, transition.new_hubs) == (None, ("v42",))


@pytest.mark.parametrize(
    ("artifacts", "named"),
    [
        (["table v42Instances"], "table v42Instances, at"),
        ([f"queue v42-control-0{n}" for n in range(4)], "v42-control-01, queue v42-control-02, 1 more, at"),
    ],
    ids=["one artifact", "more artifacts than a message names"],
)
def test_staging_a_hub_that_exists_at_its_provider_is_refused_with_its_artifacts(
    artifacts: list[str], named: str
) -> None:
    with pytest.raises(TaskHubAlreadyUsed) as refused:
        stage(build_app(), build_stage_command("v42"), existing=ExistingArtifacts(tuple(artifacts), (TABLES,)))
    assert f"{named} {TABLES}. " in refused.value.message
    assert refused.value.details == {"taskHub": "v42", "existing": artifacts, "addresses": [TABLES]}


def test_force_and_take_over_do_not_stage_a_hub_that_exists_at_its_provider() -> None:
    command = build_stage_command("v42", force=True, take_over=True, reason="test")
    with pytest.raises(TaskHubAlreadyUsed):
        stage(build_app(), command, existing=ExistingArtifacts(("table v42History",), (TABLES,)))


def test_staging_is_refused_while_the_provider_is_unavailable() -> None:
    with pytest.raises(TaskHubUnavailable, match="away"):
        stage(build_app(), build_stage_command("v42"), existing=ProviderUnavailable("away", 30))


def test_refusals_that_a_retry_would_not_end_come_before_an_unavailable_provider() -> None:
    with pytest.raises(StagingNotReady):
        stage(
            build_app(None, build_slot("v41")),
            build_stage_command("v42"),
            verdict=build_not_ready_verdict(),
            existing=ProviderUnavailable("away", 30),
        )
    with pytest.raises(TaskHubInUse):
        stage(
            build_app(build_production_slot("v42")),
            build_stage_command("v42"),
            existing=ProviderUnavailable("away", 30),
        )


@pytest.mark.parametrize(
    "existing", [None, ExistingArtifacts(("table v42History",), (TABLES,)), ProviderUnavailable("away", 30)]
)
def test_a_hub_that_the_slot_already_holds_is_staged_again_regardless_of_its_provider(
    existing: ExistingArtifacts | ProviderUnavailable | None,
) -> None:
    app = build_app(None, build_slot("v42"))
    assert is_staged_in_slot(app, build_stage_command("V42"))
    transition = stage(app, build_stage_command("V42"), existing=existing)
    assert (transition.new_hubs, transition.proof) == ((), None)


def test_only_a_hub_that_the_slot_holds_unpromoted_counts_as_staged_in_it() -> None:
    assert not is_staged_in_slot(build_app(), build_stage_command("v42"))
    assert not is_staged_in_slot(build_app(None, build_slot("v41")), build_stage_command("v42"))
    assert not is_staged_in_slot(build_app(None, build_slot("v42", promoted=True)), build_stage_command("v42"))
    assert not is_staged_in_slot(build_app(None, build_slot("v42")), build_stage_command("v42", slot="production"))


# Adoption


def test_registering_a_hub_adopts_it_and_is_recorded() -> None:
    registration = build_register_command({"production": ("v41", None)}, provider_config=PROVIDER_CONFIG)
    transition = register(build_app(), registration, proof=PROOF)
    assert (transition.new_hubs, transition.adopted_hubs, transition.proof) == (("v41",), (), PROOF)
    assert transition.details["adopted"] == {"taskHubs": ["v41"], "addresses": [TABLES, QUEUES]}


def test_a_registration_adopts_the_named_hubs_in_slots_and_the_retired_ones() -> None:
    app = build_app(build_production_slot("v41"), retired=(build_retired_hub("v40"), build_retired_hub("v39")))
    registration = build_register_command({"staging": ("v42", None)}, adopt_task_hubs=("V40", "v41", "v42", "v40"))
    transition = register(app, registration, proof=PROOF)
    assert (transition.new_hubs, transition.adopted_hubs) == (("v42",), ("v40", "v41"))
    assert transition.details["adopted"]["taskHubs"] == ["v42", "v40", "v41"]


def test_an_adoption_alone_is_a_change() -> None:
    app = build_app(build_production_slot("v41"))
    transition = register(app, build_register_command(adopt_task_hubs=("v41",)), proof=PROOF)
    assert (transition.changed, transition.app) == (True, app)


def test_an_adoption_without_a_provider_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="send taskHubs in the same request"):
        register(build_app(build_production_slot("v41")), build_register_command(adopt_task_hubs=("v41",)))


def test_adopting_a_hub_that_the_app_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="app shop cannot adopt task hub v99"):
        register(
            build_app(build_production_slot("v41")), build_register_command(adopt_task_hubs=("v41", "v99")), proof=PROOF
        )


def test_a_registration_without_hubs_adopts_nothing() -> None:
    transition = register(build_app(build_production_slot("v41")), build_register_command({"qa": None}), proof=PROOF)
    assert "adopted" not in transition.details


def test_a_registration_sets_keeps_or_clears_the_provider() -> None:
    known = build_app(provider_config=PROVIDER_CONFIG)
    assert build_register_command().resulting_provider_config(known) == PROVIDER_CONFIG
    assert (
        build_register_command(provider_config=PROVIDER_CONFIG).resulting_provider_config(build_app())
        == PROVIDER_CONFIG
    )
    assert build_register_command(clear_provider_config=True).resulting_provider_config(known) is None


# What the proof covers


@pytest.mark.parametrize("addresses", [[], [TABLES], [QUEUES, TABLES]])
def test_artifacts_at_addresses_that_the_proof_covers_are_owned(addresses: list[str]) -> None:
    assert explain_not_owned("v41", PROOF, addresses) is None


def test_artifacts_at_another_address_are_not_owned_and_the_message_names_both_addresses() -> None:
    why = explain_not_owned("v41", PROOF, [BLOBS, TABLES])
    assert why is not None
    assert why.startswith(f"the claim on task hub v41 is proven for {TABLES}, {QUEUES}, but not for {BLOBS}. ")
    assert 'adoptTaskHubs ["v41"]' in why


def test_nothing_is_owned_without_a_proof() -> None:
    why = explain_not_owned("v41", None, [])
    assert why is not None
    assert why.startswith("nothing proves that task hub v41 belongs to this app")


@given(st.sets(st.sampled_from([TABLES, QUEUES, BLOBS])), st.sets(st.sampled_from([TABLES, QUEUES, BLOBS])))
def test_a_proof_covers_exactly_the_addresses_that_were_asked(asked: set[str], wanted: set[str]) -> None:
    proof = OwnershipProof(ProofBasis.NEW, tuple(asked), noon_plus())
    assert (explain_not_owned("v41", proof, wanted) is None) is (wanted <= asked)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://Shop.table.core.windows.net/", "https://shop.table.core.windows.net"),
        ("https://shop.queue.core.windows.net:443/?sv=1&sig=secret", "https://shop.queue.core.windows.net"),
        ("http://user:secret@127.0.0.1:10002/devstoreaccount1", "http://127.0.0.1:10002/devstoreaccount1"),
        ("http://shop.example:80#secret", "http://shop.example"),
        ("https://[::1]:8081/", "https://[::1]:8081"),
    ],
)
def test_an_address_has_one_spelling_and_no_secret(url: str, plain: str) -> None:
    assert normalize_address(url) == plain
    assert normalize_address(plain) == plain


# Cleanup


def test_forgotten_hubs_that_stay_at_their_provider_are_recorded_as_not_owned() -> None:
    app = build_app(retired=(build_retired_hub("v38"), build_retired_hub("v39"), build_retired_hub("v40")))
    transition = forget_retired_hubs(app, ["v38"], ["V40"])
    assert transition.app.retired == (build_retired_hub("v39"),)
    assert transition.details == {"removed": ["v38", "v40"], "notOwned": ["v40"]}
