"""What run.sub does in a job: the srun line, the container, and a requeue where no Python answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.launch.default_recipe import FALLBACK
from bertjobs.launch.script import MARKER
from bertjobs.launch.start import write_run
from bertjobs.launch.study import array_submission
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.variables import NAMES
from bertjobs.run.study import Study
from bertjobs.slurm.container import run_sub
from bertjobs.slurm.options import SlurmOptions
from tests.launch.golden_file import check_golden

SRUN = """#!/bin/bash
if [[ $1 == --help ]]; then echo "{help}"; exit; fi
[[ $* == *--label* ]] && printf '%s\\n' srun "$@" >"$WORDS" && env >"$WORDS.environment"
[[ -n ${{CHECKPOINT:-}} ]] && mkdir -p "$CHECKPOINT"
exit "${{WORKER_CODE:-0}}"
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") echo node1;;
  "show node") echo "   NodeAddr=10.0.0.1 NodeHostName=node1 $NODE";;
  "show job") echo "   ${JOB-TresPerNode=gres/gpu:8}";;
esac
[[ $1 == requeue ]] && echo "$2" >>"$WORDS.requeued"
true
"""


@pytest.fixture
def run_by_hand(tmp_path: Path):
    """Runs run.sub, or another ``script``, as Slurm's batch step would; gives (exit code, stderr, srun's arguments or
    None)."""

    def run(help_text: str = "--container-image", gpus: str = "", starter: str = "", script: str = "", **environ: str):
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        smi = f"#!/bin/bash\necho '{gpus}'\n"
        silent = dict.fromkeys(("squeue", "sacct", "scancel"), "#!/bin/bash\n")  # a cluster without other jobs
        programs = {"srun": SRUN.format(help=help_text), "scontrol": SCONTROL, "nvidia-smi": smi, **silent}
        apptainer = f'#!/bin/bash\n[[ $1 == exec ]] && env | grep ENV_ >"{tmp_path}/apptainer.environment"\n'
        programs |= dict.fromkeys(filter(None, [starter]), apptainer)
        for name, text in programs.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        for name in ("local.sqsh", "local.sif"):
            (work / name).touch()
        words = tmp_path / "words"
        done = subprocess.run(
            ["bash", script or str(run_sub())],
            cwd=work,
            env={
                "PATH": f"{tools}:{os.environ['PATH']}", "WORDS": str(words), "SLURM_JOB_ID": "4711",
                "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_ON_NODE": "16", **environ,
            },
            capture_output=True,
            text=True,
        )  # fmt: skip
        srun_words = words.read_text().replace(str(work), "/home/me") if words.exists() else None
        return done.returncode, done.stderr, srun_words

    return run


@pytest.mark.parametrize("results", ["-r", 'it\'s my "runs" 100%j $HOME; [a] *', "Bücher"])
def test_a_hostile_results_folder_by_hand(run_by_hand, tmp_path: Path, results: str) -> None:
    code, stderr, words = run_by_hand(RECIPE="laptop-scratch", RESULTS=results, BERTJOBS_PYTHON="/opt/my python")
    assert code == 0, stderr
    phase = tmp_path / "work" / results / "laptop-scratch" / "phase1"
    assert (phase / "logs").is_dir()
    listed = words.splitlines()
    assert "/opt/my python" in listed
    (log,) = [word.removeprefix("--output=") for word in listed if word.startswith("--output=")]
    assert log.replace("%%", "%").removeprefix("./") == f"{results}/laptop-scratch/phase1/logs/4711-0.out"
    assert "%" not in log.replace("%%", "")


def test_a_container_s_mount_that_pyxis_could_not_write_is_refused_by_hand(run_by_hand) -> None:
    code, stderr, words = run_by_hand(RECIPE="laptop-scratch", RESULTS="my runs", IMAGE="local.sqsh")
    assert (code, words) == (64, None)
    assert "my runs cannot be mounted" in stderr


def test_the_checkpoint_written_last_counts_not_the_highest_name(run_by_hand, tmp_path: Path) -> None:
    """Where no Python answers, bash decides: an attempt that skipped damaged checkpoints has written one below them."""
    checkpoints = tmp_path / "work" / "a [b]" / "laptop-scratch" / "phase1" / "checkpoints"
    for step, written in ((100, 1e9), (300, 1.1e9)):
        (checkpoints / f"step-{step:08d}").mkdir(parents=True)
        os.utime(checkpoints / f"step-{step:08d}", (written, written))
    settings = {"RECIPE": "laptop-scratch", "RESULTS": "a [b]", "WORKER_CODE": "70", "BERTJOBS_PYTHON": "/opt/python"}
    run_by_hand(**settings)
    assert not (tmp_path / "words.requeued").exists()
    run_by_hand(**settings, CHECKPOINT=str(checkpoints / "step-00000150"))
    assert (tmp_path / "words.requeued").read_text() == "4711\n"


def test_all_settings_reach_the_inside_of_a_container() -> None:
    """An image's environment wins over all that --container-env does not name."""
    text = run_sub().read_text()
    listed = re.search(r"^settings=(\S+)\nsettings\+=(\S+)$", text, re.MULTILINE)
    assert listed is not None
    assert set((listed[1] + listed[2]).split(",")) == set(NAMES)


def test_a_setting_that_is_unset_is_exported_empty_so_that_an_image_cannot_set_it(run_by_hand, tmp_path: Path) -> None:
    code, stderr, words = run_by_hand(RECIPE="laptop-scratch", IMAGE="local.sqsh", LR="1e-3")
    assert code == 0, stderr
    (line,) = [word for word in words.splitlines() if word.startswith("--container-env=")]
    environment = (tmp_path / "words.environment").read_text().splitlines()
    assert {"SEED=", "PRECISION=", "MASKING=", "LR=1e-3", "RECIPE=laptop-scratch"} <= set(environment)
    exported = {entry.partition("=")[0] for entry in environment}
    assert set(NAMES) <= exported & set(line.removeprefix("--container-env=").split(","))


# No package contains pyxis, hence stand-ins for srun and scontrol: srun's writes down its options and environment.
def test_the_srun_line(run_by_hand) -> None:
    code, stderr, words = run_by_hand(RECIPE="laptop-scratch", BERTJOBS_PYTHON="/opt/python")
    assert code == 0, stderr
    check_golden("srun-plain.txt", words)


def test_the_srun_line_with_an_image(run_by_hand) -> None:
    code, stderr, words = run_by_hand(
        RECIPE="dgx1-32g", IMAGE="local.sqsh", MOUNTS="a:b", SLURM_NTASKS_PER_NODE="8", DATADIR="/lustre/wiki"
    )
    assert code == 0, stderr
    check_golden("srun-container.txt", words)


def test_an_element_of_a_study_in_containers_trains_its_own_run_on_mounted_data(run_by_hand, tmp_path: Path) -> None:
    """Of fine-tuning, whose data are below the results, and whose weights are anywhere."""
    results = tmp_path / "work" / "results"
    flags = {"recipe": "mrpc-dgx1-32g", "results": str(results), "data": str(results / ".tasks" / "mrpc-1234")}
    spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, training_rows=3668).spec
    spec = replace(spec, image="local.sqsh", init_checkpoint="/lustre/bert")
    study = Study.of(results, "st", [{"seed": str(seed)} for seed in (42, 43, 44)])
    specs = [replace(spec, run=study.run(member), seed=42 + member.number) for member in study.members]
    array = array_submission(study, specs, SlurmOptions(), chain="chain-1").script
    before, after = run_sub().read_text().split(MARKER)
    head = array.removeprefix(before).removesuffix(after)
    code = str(run_sub().parent)
    head = head.replace(sys.executable, "/opt/python").replace(str(tmp_path / "work"), "/home/me")
    check_golden("study.sub", head.replace(code, "/opt/bertjobs"))

    write_run(specs[1])
    (tmp_path / "array.sub").write_text(array)
    element = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2", "SLURM_NTASKS_PER_NODE": "8"}
    status, stderr, words = run_by_hand(script=str(tmp_path / "array.sub"), PYTHONPATH=code, **element)
    assert status == 0, stderr
    check_golden("srun-study.txt", words.replace(code, "/opt/bertjobs"))
    assert "/home/me/results/st-2/phase1/logs/17_2-0.out" in words


BY_HAND = {"BERTJOBS_PYTHON": "/opt/python", "BERTJOBS_LINK": sys.executable, "PYTHONPATH": str(run_sub().parent)}
GPUS_OF_NODES = {"NODE": "Gres=gpu:a100:8(S:0-1)", "SLURM_JOB_NUM_NODES": "2", "RECIPE": "dgxa100-80g", **BY_HAND}


def test_the_gpus_of_an_exclusive_job_are_asked_for_by_the_step(run_by_hand) -> None:
    job = "OverSubscribe=NO TRES=cpu=32,node=2,gres/gpu=16,gres/gpu:a100=16"
    code, stderr, words = run_by_hand(JOB=job, **GPUS_OF_NODES)
    assert code == 0, stderr
    assert {"--ntasks-per-node=8", "--gres=gpu:8", "--cpu-bind=none"} <= set(words.splitlines())
    code, stderr, words = run_by_hand(JOB=job, GPUS="a100:4", **GPUS_OF_NODES)
    assert {"--ntasks-per-node=4", "--gres=gpu:8"} <= set(words.splitlines())


def test_a_job_without_the_gpus_of_its_recipe_ends_with_what_to_add(run_by_hand) -> None:
    code, stderr, words = run_by_hand(JOB="OverSubscribe=OK TRES=cpu=2,node=2", **GPUS_OF_NODES)
    assert (code, words) == (64, None)
    assert "recipe dgxa100-80g trains on GPUs" in stderr
    assert "add --gpus-per-node=8 to sbatch" in stderr


def test_a_submitted_run_and_one_on_cpus_are_not_asked_about_gpus(run_by_hand, tmp_path: Path) -> None:
    lockfile = tmp_path / "work" / "results" / "dgxa100-80g" / "run.yml"
    lockfile.parent.mkdir(parents=True)
    lockfile.touch()  # a submitted run's folder is there
    none = {"JOB": "OverSubscribe=OK TRES=cpu=2,node=2", **GPUS_OF_NODES}
    for environ in ({"GPUS": "0"}, {"BERTJOBS_PHASES": "1"}, {"RECIPE": "laptop-scratch"}):
        code, stderr, words = run_by_hand(**{**none, **environ})
        assert code == 0, stderr
        assert "--ntasks-per-node=1" in words.splitlines()
        assert "--gres" not in words


def test_no_binding_of_gpus_hides_them_from_the_other_ranks(run_by_hand, tmp_path: Path) -> None:
    binding = {"SLURM_GPUS_PER_TASK": "1", "SLURM_GPU_BIND": "single:1", "SLURM_TRES_PER_TASK": "cpu=4,gres/gpu=1"}
    binding["SLURM_TRES_BIND"] = "gres/gpu:per_task:1"
    code, stderr, words = run_by_hand(SLURM_GPUS_ON_NODE="8", RECIPE="dgxa100-80g", **BY_HAND, **binding)
    assert code == 0, stderr
    assert "--ntasks-per-node=8" in words.splitlines()
    seen = {line.partition("=")[0] for line in (tmp_path / "words.environment").read_text().splitlines()}
    assert seen.isdisjoint(binding)


def test_further_variables_reach_the_inside_of_a_container_by_name(run_by_hand) -> None:
    code, stderr, words = run_by_hand(
        RECIPE="dgx1-32g", IMAGE="local.sqsh", BERTJOBS_ENVIRONMENT="WANDB_API_KEY,UNSET", WANDB_API_KEY="s3cr3t"
    )
    assert code == 0, stderr
    (line,) = [word for word in words.splitlines() if word.startswith("--container-env=")]
    assert "WANDB_API_KEY" in line.removeprefix("--container-env=").split(",")
    assert "s3cr3t" not in words


def test_an_image_file_is_named_by_its_full_path(run_by_hand) -> None:
    code, stderr, words = run_by_hand(RECIPE="dgx1-32g", IMAGE="local.sqsh")
    assert code == 0, stderr
    assert "--container-image=/home/me/local.sqsh\n" in words


def test_an_image_file_that_is_missing_is_not_asked_of_a_registry(run_by_hand) -> None:
    code, stderr, words = run_by_hand(RECIPE="dgx1-32g", IMAGE="nowhere.sqsh")
    assert (code, words) == (64, None)
    assert stderr.startswith("error: there is no image file nowhere.sqsh on ")


def test_relative_folders_and_those_behind_links_are_mounted(run_by_hand, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    code, stderr, words = run_by_hand(
        RECIPE="dgx1-32g", IMAGE="local.sqsh", DATADIR="data/prepared", INIT_CHECKPOINT=str(tmp_path / "link")
    )
    assert code == 0, stderr
    (line,) = [word for word in words.splitlines() if word.startswith("--container-mounts=")]
    mounts = line.removeprefix("--container-mounts=").split(",")
    assert {"/home/me:/home/me:ro", "/home/me/results:/home/me/results"} <= set(mounts)
    assert "/home/me/data/prepared:/home/me/data/prepared:ro" in mounts
    assert {f"{tmp_path}/{name}:{tmp_path}/{name}:ro" for name in ("link", "real")} <= set(mounts)


def test_tasks_that_cannot_be_spread_evenly_are_refused(run_by_hand) -> None:
    code, stderr, words = run_by_hand(RECIPE="laptop-scratch", SLURM_NTASKS="3", SLURM_JOB_NUM_NODES="2")
    assert (code, words) == (64, None)
    assert stderr == "error: 3 tasks cannot be spread evenly over 2 nodes: give --ntasks-per-node\n"


def test_pyxis_is_detected_in_a_long_help(run_by_hand) -> None:
    help_text = "\n".join(["--container-image", *("x" * 79 for _ in range(3000))])
    code, stderr, words = run_by_hand(help_text, RECIPE="dgx1-32g", IMAGE="local.sqsh")
    assert code == 0, stderr
    assert "--container-image=/home/me/local.sqsh" in words


def test_an_image_on_a_cluster_without_pyxis(run_by_hand) -> None:
    code, stderr, words = run_by_hand("--nodes", RECIPE="laptop-scratch", IMAGE="local.sqsh", MOUNTS="a:b")
    assert (code, words) == (64, None)
    assert re.fullmatch(
        r"error: IMAGE is set, but srun has no pyxis \(--container-image\), and \S+ no apptainer\n", stderr
    )


@pytest.mark.parametrize(
    ("container", "says"),
    [
        ("pyxis", "CONTAINER is pyxis, but srun has no pyxis (--container-image)\n"),
        ("apptainer", "CONTAINER is apptainer, but "),
        ("docker", "CONTAINER must be auto, pyxis or apptainer\n"),
    ],
)
def test_a_way_to_start_containers_that_is_not_there(run_by_hand, container: str, says: str) -> None:
    code, stderr, words = run_by_hand("--nodes", RECIPE="laptop-scratch", IMAGE="local.sqsh", CONTAINER=container)
    assert (code, words) == (64, None)
    assert stderr.startswith(f"error: {says}")


APPTAINER = {"help_text": "--nodes", "starter": "apptainer", "RECIPE": "dgx1-32g"}


def test_the_srun_line_with_apptainer(run_by_hand, tmp_path: Path) -> None:
    code, stderr, words = run_by_hand(
        **APPTAINER, IMAGE="local.sif", MOUNTS="/a:/b:ro", SLURM_NTASKS_PER_NODE="8", DATADIR="/lustre/wiki",
        SLURM_GPUS_ON_NODE="8", BERTJOBS_CODE="/opt/bertjobs/lib",
    )  # fmt: skip
    assert code == 0, stderr
    check_golden("srun-apptainer.txt", words.replace(str(tmp_path), "/site"))


def test_apptainer_has_gpus_only_where_the_job_has(run_by_hand) -> None:
    _, _, words = run_by_hand(**APPTAINER, IMAGE="docker://python:3.12")
    assert "--nv" not in words.splitlines()
    assert "docker://python:3.12" in words.splitlines()


@pytest.mark.parametrize("starter", ["apptainer", "singularity"])
def test_settings_win_over_the_image_s_in_apptainer_too(run_by_hand, tmp_path: Path, starter: str) -> None:
    """By the variables that Apptainer sets inside, which it evaluates as a shell would."""
    code, stderr, words = run_by_hand(
        **{**APPTAINER, "starter": starter}, IMAGE="local.sif", LR="1e-3", BERTJOBS_ENVIRONMENT="TOKEN,UNSET",
        TOKEN="a$b`c`\\d,e",
    )  # fmt: skip
    assert code == 0, stderr
    prefix = f"{starter.upper()}ENV_"
    entries = (tmp_path / "words.environment").read_text().splitlines()
    inside = dict(entry.removeprefix(prefix).split("=", 1) for entry in entries if entry.startswith(prefix))
    assert set(NAMES) <= set(inside)
    assert {name: inside[name] for name in ("SEED", "LR", "RECIPE")} == {"SEED": "", "LR": "1e-3", "RECIPE": "dgx1-32g"}
    assert inside["TOKEN"] == r"a\$b\`c\`\\d,e"
    assert "UNSET" not in inside
    assert "a$b" not in words


def test_pyxis_is_taken_before_apptainer_unless_it_is_named(run_by_hand) -> None:
    both = {"starter": "apptainer", "RECIPE": "dgx1-32g", "IMAGE": "local.sif"}
    assert "--container-image=/home/me/local.sif\n" in run_by_hand(**both)[2]
    named = run_by_hand(**both, CONTAINER="apptainer")[2].splitlines()
    assert "exec" in named
    assert not [word for word in named if word.startswith("--container-")]


@pytest.mark.parametrize("starter", ["", "apptainer"])
def test_the_code_that_submits_is_mounted_read_only(run_by_hand, tmp_path: Path, starter: str) -> None:
    code = tmp_path / "lib"
    (code / "bertjobs").mkdir(parents=True)
    (code / "configurations.yml").touch()
    named = {"CONTAINER": starter} if starter else {}
    _, _, words = run_by_hand(starter=starter, RECIPE="dgx1-32g", IMAGE="local.sqsh", BERTJOBS_CODE=str(code), **named)
    mounts = [word for word in re.split("[,\n=]", words) if ":/bertjobs/" in word]
    assert mounts == [f"{code}/{name}:/bertjobs/{name}:ro" for name in ("bertjobs", "configurations.yml")]
    end = words.splitlines()[-6:]
    assert end == ["env", "PYTHONSAFEPATH=1", "PYTHONPATH=/bertjobs", "python3", "-m", "bertjobs.train"]


CHECKPOINT = "results/laptop-scratch/phase1/checkpoints/step-00000005"


@pytest.mark.parametrize("link", [sys.executable, "/no/python", "/bin/false"])
@pytest.mark.parametrize(
    ("code", "environ", "requeued"),
    [
        (75, {"CHECKPOINT": CHECKPOINT}, True), (137, {"CHECKPOINT": CHECKPOINT}, True), (75, {}, False),
        (70, {}, False), (64, {"CHECKPOINT": CHECKPOINT}, False), (0, {"CHECKPOINT": CHECKPOINT}, False),
        (75, {"CHECKPOINT": CHECKPOINT, "STEPS_THIS_RUN": "5"}, False),
    ],
)  # fmt: skip
def test_a_job_is_requeued_once_after_a_checkpoint_even_if_no_python_answers(
    run_by_hand, tmp_path: Path, link: str, code: int, environ: dict[str, str], requeued: bool
) -> None:
    environ = {**environ, "PYTHONPATH": str(run_sub().parent), "WORKER_CODE": str(code), "BERTJOBS_LINK": link}
    ended, stderr, _ = run_by_hand(RECIPE="laptop-scratch", BERTJOBS_PYTHON="/opt/python", **environ)
    assert ended == (code if code in (0, 64, 75) else 70)
    requeues = tmp_path / "words.requeued"
    assert requeues.exists() == requeued, stderr
    assert not requeued or requeues.read_text() == "4711\n"
    asked_in_vain = link != sys.executable and code not in (0, 64) and "STEPS_THIS_RUN" not in environ
    assert ("could not be decided" in stderr) == asked_in_vain


def recipe_given(folder: Path) -> str:
    """What the ranks were given."""
    environment = (folder / "words.environment").read_text().splitlines()
    (recipe,) = [entry.removeprefix("RECIPE=") for entry in environment if entry.startswith("RECIPE=")]
    return recipe


def test_without_a_recipe_the_node_s_gpus_choose_it_and_the_log_s_first_line_says_so(
    run_by_hand, tmp_path: Path
) -> None:
    code, stderr, words = run_by_hand(gpus="NVIDIA A100-SXM4-80GB, 81920, 8.0", **BY_HAND)
    assert code == 0, stderr
    first = "recipe dgxa100-80g is assumed: RECIPE is not set, and this node has NVIDIA A100-SXM4-80GB (86 GB)"
    assert stderr.splitlines()[0] == first
    assert recipe_given(tmp_path) == "dgxa100-80g"
    assert "--output=results/bert-large/phase1/logs/4711-0.out" in words


def test_a_run_that_exists_keeps_its_recipe_whatever_the_gpus_are(run_by_hand, tmp_path: Path) -> None:
    lockfile = tmp_path / "work" / "results" / "bert-large" / "run.yml"
    lockfile.parent.mkdir(parents=True)
    lockfile.touch()
    code, stderr, _ = run_by_hand(gpus="NVIDIA H200, 143771, 9.0", **BY_HAND)
    assert code == 0, stderr
    assert "is assumed" not in stderr
    assert recipe_given(tmp_path) == ""


def test_a_recipe_is_assumed_even_if_no_python_answers(run_by_hand, tmp_path: Path) -> None:
    code, stderr, _ = run_by_hand(gpus="NVIDIA H200, 143771, 9.0", **{**BY_HAND, "BERTJOBS_LINK": "/no/python"})
    assert code == 0, stderr
    assert "recipe dgxa100-40g is assumed: RECIPE is not set, and '/no/python -m bertjobs.launch" in stderr
    assert recipe_given(tmp_path) == FALLBACK == "dgxa100-40g"


def test_a_recipe_that_is_named_is_not_questioned(run_by_hand, tmp_path: Path) -> None:
    code, stderr, _ = run_by_hand(gpus="NVIDIA H200, 143771, 9.0", RECIPE="dgx1-32g", **BY_HAND)
    assert code == 0, stderr
    assert "is assumed" not in stderr
    assert recipe_given(tmp_path) == "dgx1-32g"


@pytest.mark.parametrize("run", ["a b", "../up", "$(touch x)", "a'b", "a\nb"])
def test_a_hostile_run_name_by_hand(run_by_hand, run: str) -> None:
    code, stderr, words = run_by_hand(RUN=run)
    assert (code, words) == (64, None)
    assert stderr.startswith("error: RUN may hold")
