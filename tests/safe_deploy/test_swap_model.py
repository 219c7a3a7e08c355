"""A model of server and Azure: however runs fail or are killed, both agree, or the swap is pending."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from safe_deploy.errors import ConflictError
from safe_deploy.slot_task_hubs import ObservedSlots, PendingSwap, RecordedSlots, is_same_task_hub
from safe_deploy.swap_planner import (
    SwapAttempt,
    SwapStep,
    plan_after_command,
    plan_interrupted_swap,
    plan_swap,
)
from tests.safe_deploy.swap_situations import (
    AZURE_UNSWAPPED,
    PENDING_SWAP,
    RUN,
    record,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConditions:
    """What happens to one run.

    `killed_after`: the number of steps after which it is killed, None if it is not. `completes_when_killed`: the `az`
    of a killed run still completes its swap. `azure_swaps`: Azure makes the swap. `swaps_late`: it does so only after
    the command has ended. `exit_code`: of the command. `interrupted`: by a signal. `azure_unreadable`: Azure cannot be
    queried before the swap, and after it.
    """

    killed_after: int | None
    completes_when_killed: bool
    azure_swaps: bool
    swaps_late: bool
    exit_code: int
    interrupted: bool
    azure_unreadable: tuple[bool, bool]


NO_FAILURE = RunConditions(
    killed_after=None,
    completes_when_killed=True,
    azure_swaps=True,
    swaps_late=False,
    exit_code=0,
    interrupted=False,
    azure_unreadable=(False, False),
)


@dataclass
class SimulatedSwap:
    """The server's record and the slots in Azure. `swap_in_progress`: Azure has accepted a swap and not made it yet."""

    is_observable: bool
    production: str | None = "v41"
    slot: str | None = "v42"
    pending_swap: PendingSwap | None = None
    azure: ObservedSlots = AZURE_UNSWAPPED
    swap_count: int = 0
    swap_in_progress: bool = False
    reported_steps: list[SwapStep] = field(default_factory=list)

    @property
    def recorded(self) -> RecordedSlots:
        """What the server would answer now."""
        return record(self.production, self.slot, pending_swap=self.pending_swap)

    @property
    def agrees(self) -> bool:
        """Whether server and Azure have the same task hubs."""
        return (self.production, self.slot) == (self.azure.production, self.azure.slot)

    def observe(self, *, unreadable: bool = False) -> ObservedSlots | None:
        """What Azure shows now; None if it cannot be read."""
        return self.azure if self.is_observable and not unreadable else None

    def exchange_record(self) -> None:
        """Exchange the task hubs on the server's record, as PostSwap does."""
        self.production, self.slot = self.slot, self.production

    def swap_azure(self) -> None:
        """Exchange the task hubs in Azure, as the swap command does."""
        self.azure = ObservedSlots(self.azure.slot, self.azure.production)
        self.swap_count += 1

    def watch(self) -> bool:
        """Watch for the stabilization window, in which an accepted swap completes. Returns whether one did."""
        completed, self.swap_in_progress = self.swap_in_progress, False
        if completed:
            self.swap_azure()
        return completed

    def report(self, step: SwapStep) -> None:
        """Report an outcome as the server handles it: a repeated report changes nothing."""
        self.reported_steps.append(step)
        if step is SwapStep.REVERT and self.pending_swap is not None:
            self.exchange_record()
        if step is SwapStep.CONFIRM and self.pending_swap is None and is_same_task_hub(self.slot, "v42"):
            self.exchange_record()
        if step in (SwapStep.CONFIRM, SwapStep.REVERT):
            self.pending_swap = None


def simulate_run_steps(simulated: SimulatedSwap, conditions: RunConditions) -> Iterator[None]:
    """One run as `swap_executor.py` carries it out. It can be killed at each yield."""
    unreadable_before, unreadable_after = conditions.azure_unreadable
    yield
    if simulated.is_observable and unreadable_before:
        return
    step = plan_swap(simulated.recorded, simulated.observe(), task_hub="v42", run_url=RUN)
    yield
    if step is SwapStep.RESUME and simulated.watch():
        step = SwapStep.CONFIRM
    if step is SwapStep.ALREADY_SWAPPED:
        return
    if step is SwapStep.CONFIRM:
        simulated.report(step)
        return
    assert step in (SwapStep.BEGIN, SwapStep.RESUME)
    swapped_out = simulated.pending_swap.swapped_out if simulated.pending_swap else simulated.production
    if simulated.pending_swap is None:
        simulated.exchange_record()
        simulated.pending_swap = PENDING_SWAP
    yield
    simulated.swap_in_progress = conditions.azure_swaps and conditions.completes_when_killed
    yield
    simulated.swap_in_progress = False
    if conditions.azure_swaps:
        if conditions.swaps_late:
            simulated.swap_in_progress = True
        else:
            simulated.swap_azure()
    yield
    if conditions.exit_code and not conditions.interrupted and simulated.is_observable:
        simulated.watch()
    attempt = SwapAttempt(
        succeeded=conditions.exit_code == 0,
        interrupted=conditions.interrupted,
        is_observable=simulated.is_observable,
    )
    step = plan_after_command(
        attempt, simulated.observe(unreadable=unreadable_after), task_hub="v42", swapped_out=swapped_out
    )
    yield
    simulated.report(step)


def simulate_run(simulated: SimulatedSwap, conditions: RunConditions) -> bool:
    """Run until the end or until the run is killed. Returns whether it reached its end. A swap in progress may complete
    during the next run."""
    result = True
    try:
        for step_number, _ in enumerate(simulate_run_steps(simulated, conditions)):
            if step_number == conditions.killed_after:
                result = False
                break
    except ConflictError:
        pass
    if result and simulated.pending_swap is None:
        assert not simulated.swap_in_progress, "a swap that may still complete must be pending"
    return result


def run_conditions(*, is_observable: bool) -> st.SearchStrategy[RunConditions]:
    """Conditions of a run that can occur in Azure."""

    def make_exit_code_truthful(conditions: RunConditions) -> RunConditions:
        """If Azure cannot be queried after the swap, the exit code is the only evidence, and must be true."""
        swaps_late = conditions.swaps_late and conditions.azure_swaps
        exit_code = conditions.exit_code
        if not is_observable or conditions.azure_unreadable[1]:
            exit_code = 0 if conditions.azure_swaps and not swaps_late else 1
        return replace(conditions, exit_code=1 if swaps_late else exit_code)

    return st.builds(
        RunConditions,
        killed_after=st.none() | st.integers(0, 7),
        completes_when_killed=st.booleans(),
        azure_swaps=st.booleans(),
        swaps_late=st.booleans(),
        exit_code=st.sampled_from([0, 1]),
        interrupted=st.booleans(),
        azure_unreadable=st.tuples(st.booleans(), st.booleans()),
    ).map(make_exit_code_truthful)


@settings(max_examples=600, deadline=None)
@given(st.lists(run_conditions(is_observable=True), min_size=1, max_size=6))
def test_after_failed_and_killed_runs_server_and_azure_agree_or_the_swap_is_pending(
    runs: list[RunConditions],
) -> None:
    simulated = SimulatedSwap(is_observable=True)
    for conditions in runs:
        result = simulate_run(simulated, conditions)
        assert simulated.agrees or simulated.pending_swap is not None, f"ended: {result}"
        assert simulated.swap_count <= 1, "Azure never swaps twice for one task hub"
    assert simulate_run(simulated, NO_FAILURE)
    assert simulated.agrees
    assert simulated.pending_swap is None
    assert (simulated.production, simulated.swap_count) == ("v42", 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(run_conditions(is_observable=False), min_size=1, max_size=6))
def test_without_access_to_azure_a_killed_run_stays_pending_and_azure_never_swaps_twice(
    runs: list[RunConditions],
) -> None:
    simulated = SimulatedSwap(is_observable=False)
    for conditions in runs:
        simulate_run(simulated, conditions)
        assert simulated.agrees or simulated.pending_swap is not None
        assert simulated.swap_count <= 1
    simulate_run(simulated, NO_FAILURE)
    if simulated.pending_swap is None:
        assert simulated.agrees


@settings(max_examples=200, deadline=None)
@given(run_conditions(is_observable=True))
def test_a_rollback_ends_the_swap_of_a_killed_run(conditions: RunConditions) -> None:
    simulated = SimulatedSwap(is_observable=True)
    simulate_run(simulated, conditions)
    if simulated.pending_swap is not None:
        step = plan_interrupted_swap(simulated.recorded, simulated.pending_swap, simulated.observe(), run_url=RUN)
        assert step is not SwapStep.LEAVE_PENDING
        simulated.report(SwapStep.CONFIRM if step is SwapStep.REVERT and simulated.watch() else step)
    assert simulated.agrees
