"""The batch script of a phase: ``run.sub`` with the run's settings written into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertjobs.recipe.groups import NodeGroup, components, gpus_asked, only_component
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.container import Container, run_sub, submitting_code
from bertjobs.slurm.options import SlurmOptions, file_name, header_value
from bertjobs.slurm.shell import export_lines

MARKER = "# bertjobs: the settings of a submitted run go here\n"


@dataclass(frozen=True)
class StudyArray:
    """The one array job of a study: its element ``i`` is the first link of the run ``STUDY-i``.

    Attributes:
        study: the name.
        numbers: of the elements.
        phases: of the runs; an element trains those that its run has left, one after the other.
        at_once: most elements that run at a time; None: as many as the cluster has room for.
    """

    study: str
    numbers: tuple[int, ...]
    phases: tuple[int, ...]
    at_once: int | None = None

    @property
    def elements(self) -> str:
        """As sbatch's ``--array`` takes them."""
        return ",".join(map(str, self.numbers)) + (f"%{self.at_once}" if self.at_once else "")


def sbatch_lines(spec: RunSpec, phase: int, options: SlurmOptions, array: StudyArray | None = None) -> list[str]:
    """The options of the job, without ``#SBATCH``; those of a heterogeneous job for each of its components, with a line
    ``hetjob`` between them.

    Raises:
        InputError: ``array`` with several components, of which Slurm makes no arrays; two constraints.
    """
    if array:
        what = "a study is one array of jobs, and Slurm has no arrays of"
        only_component(spec.node_groups, what, "give it nodes that are alike, or submit its runs one by one")
    lines: list[str] = []
    for component in components(spec.node_groups):
        lines += [*(["hetjob"] if lines else []), *_component_lines(spec, component, phase, options, array)]
    return lines


def _component_lines(
    spec: RunSpec, component: NodeGroup, phase: int, options: SlurmOptions, array: StudyArray | None
) -> list[str]:
    results, logs = (header_value(file_name(path)) for path in (spec.results, f"phase{phase}/logs"))
    name = array.study if array else spec.run
    folder, id = (f"{name}-%a", "%A_%a") if array else (name, "%j")
    lines = [
        f"--job-name={name}-phase{phase}",
        f"--nodes={component.nodes}",
        f"--ntasks-per-node={component.tasks_per_node}",
        f"--output={results}/{folder}/{logs}/slurm-{id}.out",
        *([f"--array={array.elements}"] if array else []),
    ]
    if spec.gpus:
        lines.append(f"--gpus-per-node={gpus_asked(component.gpu_type or spec.gpu_type, component.tasks_per_node)}")
    if spec.gpus and component.tasks_per_node == spec.system_of(component).gpus_per_node:
        lines += ["--exclusive", "--mem=0"]  # all GPUs of a node: its CPUs and memory too
    return lines + options.on_nodes(component.partition, component.constraint).lines()


def render_script(
    template: str,
    spec: RunSpec,
    phase: int,
    options: SlurmOptions,
    python: str,
    *,
    chain: str = "",
    code: str = "",
    array: StudyArray | None = None,
) -> str:
    """The script that ``sbatch`` is given for one phase.

    Paths in ``spec`` must be absolute. The recipe's values are not repeated here: the worker reads them from
    the run's lockfile, run.yml. The phase is in the job's name only: each job works on the first of the run's phases
    that is not done. ``chain`` names the submission that the job belongs to. ``python`` runs the link, and also the
    worker unless that is in a container, where ``code`` is the folder of the package that it runs ("": the image's).
    With ``array`` it is the script of a study, whose runs have the settings of ``spec`` as far as a job's go.
    """
    header = "".join(f"#SBATCH {line}\n" for line in sbatch_lines(spec, phase, options, array))
    settings = {} if array else {"RUN": spec.run}
    settings |= {"RECIPE": spec.recipe, "RESULTS": spec.results}
    phases = array.phases if array else [phase.phase for phase in spec.phases]
    settings |= {"BERTJOBS_PHASES": ",".join(map(str, phases))}
    settings |= {"BERTJOBS_CHAIN": chain} if chain else {}
    if spec.image:
        settings |= Container(spec.image, spec.mounts, spec.container, options.environment, code).variables()
        settings |= {"DATADIR": spec.data}
        settings |= {"INIT_CHECKPOINT": spec.init_checkpoint} if spec.init_checkpoint else {}
        settings |= {"TEACHER": spec.teacher} if spec.teacher else {}
        settings["BERTJOBS_LINK"] = python
    else:
        settings["BERTJOBS_PYTHON"] = python
    if spec.steps_this_run:
        settings["STEPS_THIS_RUN"] = str(spec.steps_this_run)
    settings |= options.notify.variables()
    before, after = template.split(MARKER)
    run = f"export RUN={array.study}-$SLURM_ARRAY_TASK_ID\n" if array else ""
    return before + header + run + export_lines(settings) + after


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
