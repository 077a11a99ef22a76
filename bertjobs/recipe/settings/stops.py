"""How a run is kept, stopped and continued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bertjobs.recipe.setting import Setting


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """Checkpoints, stops and restarts."""

    results: Annotated[str, Setting("folder of all runs", kind="path", env="RESULTS", listed=True)] = "results"
    keep_checkpoints: Annotated[
        int, Setting("newest checkpoints that are kept", unit="checkpoints per phase", minimum=1, example="5")
    ] = 3
    previous_phase: Annotated[
        str,
        Setting(
            "start a phase once the previous one is done, or (latest) already from its latest checkpoint",
            env="PREVIOUS_PHASE",
            choices=("done", "latest"),
        ),
    ] = "done"
    steps_this_run: Annotated[
        int,
        Setting(
            "stop with a checkpoint and exit code 75 after this many steps; 0: no limit",
            unit="optimizer steps",
            env="STEPS_THIS_RUN",
            example="100",
        ),
    ] = 0
    hang_timeout_s: Annotated[
        int,
        Setting(
            "end the run with exit code 70 if no step ends for this long; 0: never", unit="seconds", example="1800"
        ),
    ] = 900
    restarts_time_limit: Annotated[
        int, Setting("restarts allowed after a job's time limit", unit="restarts per submission", flag="")
    ] = 10_000
    restarts_preempted: Annotated[
        int, Setting("restarts allowed after a preemption", unit="restarts per submission", flag="")
    ] = 10_000
    restarts_node_failed: Annotated[
        int, Setting("restarts allowed after a node failure", unit="restarts per submission", flag="")
    ] = 10
    restarts_out_of_memory: Annotated[
        int, Setting("restarts allowed after running out of memory", unit="restarts per submission", flag="")
    ] = 1
    restarts_crashed: Annotated[
        int, Setting("restarts allowed after a crash", unit="restarts per submission", flag="")
    ] = 3

    @property
    def restarts(self) -> dict[str, int]:
        """How many restarts are allowed, by the budget that they are charged to: ``time_limit`` for the setting
        ``restarts_time_limit``, and so on (`bertjobs.run.causes.Restarts`)."""
        prefix = "restarts_"
        return {key.removeprefix(prefix): value for key, value in vars(self).items() if key.startswith(prefix)}
