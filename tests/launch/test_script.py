"""The batch scripts: run.sub with a run's settings written into it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.launch.script import MARKER, StudyArray, render_script, sbatch_lines, submissions
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.groups import NodeGroup
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.slurm.container import Container, container_part, run_sub, step_script
from bertjobs.slurm.environment import clean_environment
from bertjobs.slurm.options import SlurmOptions
from bertjobs.slurm.shell import export_lines
from bertjobs.slurm.site import parse_site
from tests.launch.golden_file import check_golden


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    flags = {"recipe": "dgxa100-80g", "nodes": 4, "data": "/lustre/wiki", "results": "/lustre/runs", "run": "first"}
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec


def rendered_head(spec: RunSpec, phase: int, options: SlurmOptions) -> str:
    """What is written into run.sub: the rest of the script is run.sub itself."""
    template = run_sub().read_text()
    before, after = template.split(MARKER)
    code = "/opt/bertjobs/lib" if spec.image else ""
    script = render_script(template, spec, phase, options, "/opt/bertjobs/bin/python", code=code)
    assert script.startswith(before)
    assert script.endswith(after)
    return script[len(before) : len(script) - len(after)]


def test_a_plain_run(spec: RunSpec) -> None:
    check_golden("plain.sub", rendered_head(spec, 1, SlurmOptions()))


def test_gpus_of_a_type(spec: RunSpec) -> None:
    lines = rendered_head(replace(spec, gpu_type="a100"), 1, SlurmOptions()).splitlines()
    assert "#SBATCH --gpus-per-node=a100:8" in lines


def groups(spec: RunSpec, *each: NodeGroup) -> RunSpec:
    return replace(spec, groups=each)


def test_groups_with_different_numbers_of_gpus_are_components_of_one_job(spec: RunSpec) -> None:
    run = groups(replace(spec, gpu_type="a100"), NodeGroup(2, 4, "v100"), NodeGroup(1, 8))
    lines = rendered_head(run, 1, SlurmOptions("gpu", time="4:00:00")).splitlines()
    first, second = (part.split() for part in " ".join(lines).split("#SBATCH hetjob"))
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=a100:4", "--constraint=v100"} < set(first)
    assert {"--nodes=1", "--ntasks-per-node=8", "--gpus-per-node=a100:8", "--exclusive"} < set(second)
    assert not {"--exclusive", "--mem=0"} & set(first)
    assert not [word for word in second if "constraint" in word]
    for word in ("--partition=gpu", "--time=4:00:00", "--job-name=first-phase1"):
        assert word in first
        assert word in second


def test_groups_that_only_differ_in_what_they_are_are_one_job(spec: RunSpec) -> None:
    lines = rendered_head(
        groups(spec, NodeGroup(2, 8, "v100"), NodeGroup(1, 8, "a100")), 1, SlurmOptions()
    ).splitlines()
    assert "#SBATCH hetjob" not in lines
    assert {"#SBATCH --nodes=3", "#SBATCH --ntasks-per-node=8", "#SBATCH --constraint=[v100*2&a100*1]"} < set(lines)
    alike = rendered_head(groups(spec, NodeGroup(3, 8, "v100")), 1, SlurmOptions()).splitlines()
    assert {"#SBATCH --nodes=3", "#SBATCH --constraint=v100"} < set(alike)
    any_node = rendered_head(groups(spec, NodeGroup(2, 8, "v100"), NodeGroup(1, 8)), 1, SlurmOptions()).splitlines()
    assert "#SBATCH hetjob" in any_node


def test_a_group_has_a_type_of_gpu_and_a_partition_of_its_own(spec: RunSpec) -> None:
    run = groups(replace(spec, gpu_type="a100"), NodeGroup(2, 8, gpu_type="v100", partition="old"), NodeGroup(1, 8))
    text = rendered_head(run, 1, SlurmOptions("gpu"))
    old, new = (part.split() for part in text.split("#SBATCH hetjob"))
    assert {"--gpus-per-node=v100:8", "--partition=old"} < set(old)
    assert {"--gpus-per-node=a100:8", "--partition=gpu"} < set(new)
    assert "--partition=gpu" not in old


def test_a_group_s_constraint_is_not_lost_beside_one_for_all_nodes(spec: RunSpec) -> None:
    run = groups(spec, NodeGroup(2, 4, "v100"), NodeGroup(1, 8))
    with pytest.raises(InputError, match="a group of nodes has v100, and all have infiniband"):
        sbatch_lines(run, 1, SlurmOptions(site=("--constraint=infiniband",)))
    same = sbatch_lines(run, 1, SlurmOptions(extra=("--constraint=v100",)))
    assert same.count("--constraint=v100") == 2, "one for each component"


def test_a_whole_node_is_what_the_group_s_own_system_has(spec: RunSpec) -> None:
    small = replace(spec.system, name="small", gpus_per_node=4)
    run = replace(groups(spec, NodeGroup(1, 4, system="small"), NodeGroup(1, 4)), group_systems=(small, spec.system))
    lines = sbatch_lines(run, 1, SlurmOptions())
    assert lines.index("--exclusive") < lines.index("hetjob")
    assert lines.count("--exclusive") == 1


def test_a_study_has_no_components(spec: RunSpec) -> None:
    array = StudyArray("st", (1, 2), (1,))
    with pytest.raises(InputError, match="Slurm has no arrays of heterogeneous jobs"):
        sbatch_lines(groups(spec, NodeGroup(2, 4), NodeGroup(1, 8)), 1, SlurmOptions(), array)


def test_a_run_with_queue_options_a_step_limit_and_a_container(spec: RunSpec) -> None:
    container = replace(
        spec, image="nvcr.io#nvidia/pytorch:26.01-py3", mounts=("/home/me:/code:ro", "/scratch:/scratch"),
        init_checkpoint="/lustre/bert", steps_this_run=100,
    )  # fmt: skip
    options = SlurmOptions("gpu", "me", "4:00:00", ("--qos=high",))
    check_golden("container.sub", rendered_head(container, 2, options))


def test_the_whole_script_is_valid_bash(spec: RunSpec) -> None:
    script = render_script(run_sub().read_text(), spec, 1, SlurmOptions(), "/usr/bin/python3")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_path_with_a_hash_is_not_a_comment_for_sbatch(spec: RunSpec) -> None:
    head = rendered_head(replace(spec, results="/lustre/a#b"), 1, SlurmOptions())
    assert r"#SBATCH --output=/lustre/a\#b/first/phase1/logs/slurm-%j.out" in head.splitlines()
    assert "export RESULTS='/lustre/a#b'" in head.splitlines()


HOSTILE_FOLDERS = ['/lustre/it\'s my "100%" $HOME; #1/Bücher 本', "/lustre/%j %% (a) [b] {c} *?!&|<>`id`/-x,y=~"]


def first_word(text: str) -> str:
    """The first word of a header's line, as sbatch takes it: a backslash escapes all but blanks, which quotes do."""
    word, open_quote, is_escaped = "", "", False
    for character in text:
        if character.isspace() and not open_quote:
            break
        if is_escaped:
            word, is_escaped = word + character, False
        elif character == "\\":
            is_escaped = True
        elif open_quote:
            word, open_quote = (word, "") if character == open_quote else (word + character, open_quote)
        elif character in "\"'":
            open_quote = character
        elif character == "#":
            break
        else:
            word += character
    return word


@pytest.mark.parametrize("folder", HOSTILE_FOLDERS)
def test_a_hostile_folder_reaches_sbatch_and_the_shell_whole(spec: RunSpec, folder: str) -> None:
    """sbatch ends a value at a blank, groups by quotes, takes ``#`` for a comment and ``%`` for a symbol."""
    head = rendered_head(replace(spec, results=folder, data=folder), 1, SlurmOptions())
    (line,) = [line for line in head.splitlines() if line.startswith("#SBATCH --output=")]
    value = first_word(line.removeprefix("#SBATCH --output="))
    assert value.removesuffix("/first/phase1/logs/slurm-%j.out").replace("%%", "%") == folder
    shell = "".join(f"{line}\n" for line in head.splitlines() if line.startswith("export"))
    done = subprocess.run(["bash", "-c", shell + 'printf %s "$RESULTS"'], capture_output=True, check=True)
    assert done.stdout.decode() == folder


@pytest.mark.parametrize("option", ["--qos=high\ntouch x", "--qos=high\rtouch x"])
def test_an_sbatch_option_of_two_lines_is_refused(option: str) -> None:
    with pytest.raises(InputError, match="line break"):
        SlurmOptions(extra=(option,)).lines()
    with pytest.raises(InputError, match="line break"):
        SlurmOptions(partition=option).lines()


def test_a_site_s_options_come_first_so_that_those_given_win() -> None:
    options = SlurmOptions("gpu", extra=("--qos=high",), site=("--partition=cpu", "--mem=0"))
    assert options.lines() == ["--partition=cpu", "--mem=0", "--partition=gpu", "--qos=high"]


def test_who_is_told_is_named_in_the_script_without_a_secret(spec: RunSpec) -> None:
    text = "notify: {mail: me@example.org, webhook: CHAT_HOOK, events: [done, stopped]}"
    site = parse_site(text, "juno", Path("juno.yml"))
    options = SlurmOptions(site=tuple(site.sbatch_options()), notify=site.notify)
    check_golden("notify.sub", rendered_head(spec, 1, options))


def test_a_site_s_variables_are_passed_into_containers_by_name(spec: RunSpec) -> None:
    options = SlurmOptions(environment=("WANDB_API_KEY", "NCCL_DEBUG"))
    line = "export BERTJOBS_ENVIRONMENT=WANDB_API_KEY,NCCL_DEBUG"
    assert line in rendered_head(replace(spec, image="x.sqsh"), 1, options).splitlines()
    assert "BERTJOBS_ENVIRONMENT" not in rendered_head(spec, 1, options), "without a container all are passed"


def test_phases_wait_for_any_end_of_the_one_before(spec: RunSpec) -> None:
    first, second = submissions(spec, SlurmOptions(), "/opt/python", chain="chain-3")
    assert first.path == Path("/lustre/runs/first/phase1/run.sub")
    assert first.command({}) == ["sbatch", "--parsable", str(first.path)]
    assert second.command({1: "17"}) == ["sbatch", "--parsable", "--dependency=afterany:17", str(second.path)]
    assert "export BERTJOBS_PHASES=1,2\nexport BERTJOBS_CHAIN=chain-3\n" in first.script


def test_the_first_phase_waits_for_what_the_user_names(spec: RunSpec) -> None:
    first, second = submissions(spec, SlurmOptions(), "/opt/python", after=("11", "12_3"))
    assert first.command({})[2] == "--dependency=afterany:11:12_3"
    assert second.command({1: "17"})[2] == "--dependency=afterany:17"


HOSTILE = ["a b", "it's", 'say "hi"', "two\nlines", "$(touch x)", "`id`", "a;b", "back\\slash", "*", ""]


def test_what_is_exported_survives_the_shell() -> None:
    lines = export_lines({f"V{index}": text for index, text in enumerate(HOSTILE)})
    script = lines + "".join(f'printf "%s\\0" "$V{index}"\n' for index in range(len(HOSTILE)))
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE


def test_a_surrounding_job_s_variables_do_not_leak() -> None:
    environ = {
        "SLURM_CPU_BIND": "x", "SLURM_NTASKS": "8", "SBATCH_PARTITION": "y", "PMIX_RANK": "0", "SLURM_CONF": "/etc/s",
        "PATH": "/bin", "LR": "1", "BATCH_SIZE": "8", "HOME": "/root",
    }  # fmt: skip
    assert clean_environment(environ) == {"SLURM_CONF": "/etc/s", "PATH": "/bin", "HOME": "/root"}


def test_a_script_for_a_step_in_a_container_has_the_same_lines() -> None:
    container = Container("/images/x y.sqsh", ("/a:/b",), "apptainer", ("TOKEN",), "/code")
    text = step_script(container, srun=["--ntasks=1"], readable=["/data/it's"], writable=["/out"], gpus=2)
    assert container_part() in text
    assert container_part() in run_sub().read_text()
    check_golden("step.sh", text.replace(container_part(), "# ...\n"))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
