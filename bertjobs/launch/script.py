"""The batch script of a phase: ``run.sub`` with the run's settings written into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.container import Container, run_sub, submitting_code
from bertjobs.slurm.options import SlurmOptions, file_name, header_value
from bertjobs.slurm.shell import export_lines

MARKER = "# bertjobs: the settings of a submitted run go here\n"


def sbatch_lines(spec: RunSpec, phase: int, options: SlurmOptions) -> list[str]:
    """The options of the job, without ``#SBATCH``."""
    logs = header_value(file_name(str(Path(spec.results) / spec.run / f"phase{phase}" / "logs")))
    lines = [
        f"--job-name={spec.run}-phase{phase}",
        f"--nodes={spec.nodes}",
        f"--ntasks-per-node={spec.tasks_per_node}",
        f"--output={logs}/slurm-%j.out",
    ]
    if spec.gpus:
        lines.append(f"--gpus-per-node={spec.gpus_per_node}")
    if spec.gpus and spec.gpus == spec.system.gpus_per_node:
        lines += ["--exclusive", "--mem=0"]  # all GPUs of a node: its CPUs and memory too
    return lines + options.lines()


def render_script(
    template: str,
    spec: RunSpec,
    phase: int,
    options: SlurmOptions,
    python: str,
    *,
    chain: str = "",
    code: str = "",
) -> str:
    """The script that ``sbatch`` is given for one phase.

    Paths in ``spec`` must be absolute. The recipe's values are not repeated here: the worker reads them from
    the run's lockfile, run.yml. The phase is in the job's name only: each job works on the first of the run's phases
    that is not done. ``chain`` names the submission that the job belongs to. ``python`` runs the link, and also the
    worker unless that is in a container, where ``code`` is the folder of the package that it runs ("": the image's).
    """
    header = "".join(f"#SBATCH {line}\n" for line in sbatch_lines(spec, phase, options))
    settings = {"RUN": spec.run, "RECIPE": spec.recipe, "RESULTS": spec.results}
    settings |= {"BERTJOBS_PHASES": ",".join(str(phase.phase) for phase in spec.phases)}
    settings |= {"BERTJOBS_CHAIN": chain} if chain else {}
    if spec.image:
        settings |= Container(spec.image, spec.mounts, spec.container, options.environment, code).variables()
        settings |= {"DATADIR": spec.data}
        settings |= {"INIT_CHECKPOINT": spec.init_checkpoint} if spec.init_checkpoint else {}
        settings["BERTJOBS_LINK"] = python
    else:
        settings["BERTJOBS_PYTHON"] = python
    if spec.steps_this_run:
        settings["STEPS_THIS_RUN"] = str(spec.steps_this_run)
    settings |= options.notify.variables()
    before, after = template.split(MARKER)
    return before + header + export_lines(settings) + after


@dataclass(frozen=True)
class Submission:
    """One job to queue.

    Attributes:
        phase: the one that it is named after.
        path, script: where the batch script is written, and its text.
        after: jobs whose end, of any kind, it waits for; within the same submission, ``phase1`` is the job of phase 1
            and so on.
    """

    phase: int
    path: Path
    script: str
    after: tuple[str, ...]

    def command(self, jobs: Mapping[int, str]) -> list[str]:
        """The words of the ``sbatch`` call, given the ids of earlier phases' jobs."""
        ids = [jobs.get(int(name.removeprefix("phase")), name) if "phase" in name else name for name in self.after]
        dependency = [f"--dependency=afterany:{':'.join(ids)}"] if ids else []
        return ["sbatch", "--parsable", *dependency, str(self.path)]


def submissions(
    spec: RunSpec, options: SlurmOptions, python: str, *, chain: str = "", after: Sequence[str] = ()
) -> list[Submission]:
    """What is queued for a run, in order: one job per phase, each waiting for the end of the one before, the first for
    those of ``after``."""
    template = run_sub().read_text(encoding="utf-8")
    code = submitting_code() if spec.image else ""
    queued: list[Submission] = []
    for phase in spec.phases:
        path = RunDirectory(Path(spec.results) / spec.run).phase(phase.phase).script
        behind = (f"phase{queued[-1].phase}",) if queued else tuple(after)
        script = render_script(template, spec, phase.phase, options, python, chain=chain, code=code)
        queued.append(Submission(phase.phase, path, script, behind))
    return queued
