"""What the client asks Slurm's commands, and how it reads what they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.errors import BertjobsError, InputError
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.jobs import Pending, pending_of_squeue, record_of_scontrol, states_of_sacct
from bertjobs.slurm.refusals import NoAnswer
from tests.slurm.conftest import Tool

SQUEUE = """\
8|afterany:7(unfulfilled)|r-phase2
9|afterany:7(unfulfilled),afterany:70|r-spare
10|afterany:77(unfulfilled)|r-phase1
11|(null)|a|b
12_[3-5]|afterok:7(unfulfilled)|other
"""

# From Slurm 22.05.8, with a path and a comment that look like fields.
SCONTROL = """\
JobId=7 JobName=r-phase1
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=4294901758 Nice=0 Account=bio QOS=normal
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:02 TimeLimit=00:30:00 TimeMin=N/A
   PreemptEligibleTime=2025-01-01T10:00:00 PreemptTime=2025-01-01T10:00:07
   ReqNodeList=(null) ExcNodeList=node[3-4]
   NodeList=node[1-2]
   Socks/Node=* NtasksPerN:B:S:C=8:0:*:* CoreSpec=*
   Comment=a JobState=FAILED b
   StdOut=/results/a X=1 b/r/phase1/logs/slurm-7.out
   Power=

JobId=8 JobName=another
   JobState=PENDING
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    """A cluster of stand-ins."""
    return Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HERE": str(tmp_path)})


@pytest.fixture
def asked(tmp_path: Path, tool: Tool) -> Path:
    """A file of the arguments that scontrol, sbatch and scancel were started with; sbatch answers with job 9."""
    for name in ("scontrol", "sbatch", "scancel"):
        tool(name, f'echo {name} "$@" >>{tmp_path}/asked; env >{tmp_path}/environment; echo 9')
    return tmp_path / "asked"


def test_pending_jobs_bear_names_and_dependencies() -> None:
    first, second, third, fourth, fifth = pending_of_squeue(SQUEUE)
    assert first == Pending("8", "r-phase2", "afterany:7(unfulfilled)")
    assert (fourth.name, fourth.dependency) == ("a|b", "")
    assert [job.is_behind("7") for job in (first, second, third, fourth, fifth)] == [True, True, False, False, False]
    assert second.is_behind("70")
    assert not pending_of_squeue("squeue: error\n")


def test_a_job_s_record_is_that_of_the_first_job() -> None:
    record = record_of_scontrol(SCONTROL)
    assert (record["JobId"], record["JobName"], record["JobState"]) == ("7", "r-phase1", "RUNNING")
    assert (record["ExcNodeList"], record["NtasksPerN:B:S:C"], record["Power"]) == ("node[3-4]", "8:0:*:*", "")
    assert record["StdOut"] == "/results/a X=1 b/r/phase1/logs/slurm-7.out"
    assert record["Comment"] == "a JobState=FAILED b"
    assert record_of_scontrol("") == record_of_scontrol("slurm_load_jobs error: Invalid job id specified") == {}


def test_states_are_those_of_each_start() -> None:
    text = "7|PREEMPTED\n7|CANCELLED by 1000\n7|NODE_FAIL\n"
    assert states_of_sacct(text) == ("PREEMPTED", "CANCELLED by 1000", "NODE_FAIL")
    components = "7+0|PREEMPTED\n7+1|PREEMPTED\n7+0|TIMEOUT\n7+1|CANCELLED\n"
    assert states_of_sacct(components) == ("PREEMPTED", "TIMEOUT")
    assert states_of_sacct("Slurm accounting storage is disabled\n") == ()


def test_followers_are_the_user_s_pending_jobs_behind_one(slurm: Slurm, tool: Tool, tmp_path: Path) -> None:
    tool("squeue", f'echo "$*" >{tmp_path}/words; cat <<END\n{SQUEUE}END')
    assert [job.id for job in slurm.followers("7")] == ["8", "9"]
    assert (tmp_path / "words").read_text() == "-h --me -t PENDING -o %i|%E|%j\n"


def test_links_behind_a_job_are_those_of_its_run_alone(slurm: Slurm, tool: Tool) -> None:
    """A run may have the name of another and more, or the same in another results folder, and wait for its job."""
    names = ("r-phase2", "r-spare", "r-2-phase1", "r-phase1x", "r", "evaluate", "r-phase1")
    lines = "".join(f"{number}|afterany:7(unfulfilled)|{name}\n" for number, name in enumerate(names, 10))
    tool("squeue", f"cat <<END\n{lines}END")
    tool("scontrol", '[[ $3 == 16 ]] && echo "   StdOut=/elsewhere/r/phase1/logs/slurm-16.out"; exit 0')
    assert slurm.links_behind("7", "r", Path("/results/r")) == ["10", "11"]
    assert slurm.links_behind("7", "r", Path("/results/r"), "spare") == ["11"]
    assert slurm.links_behind("7", "r-2", Path("/results/r-2")) == ["12"]


SACCT_RUNNING = """\
101|RUNNING|0:0|None|node1|1-00:00:00|1790000000|Unknown
102|COMPLETED|0:0|None|node1|1-00:00:00|1790000000|1790000100
103|PENDING|0:0|None|None assigned|1-00:00:00|Unknown|Unknown
"""


def test_a_job_that_accounting_takes_for_running_but_the_controller_does_not_know_may_have_ended(
    slurm: Slurm, tool: Tool
) -> None:
    tool("sacct", f"cat <<END\n{SACCT_RUNNING}END")
    tool("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    states = {id: job.state for id, job in slurm.ask(["101", "102", "103"]).jobs.items()}
    assert states == {"101": "UNKNOWN", "102": "COMPLETED", "103": "UNKNOWN"}
    tool("squeue", "echo '101|RUNNING|None|node1|1-00:00:00|1790000000'")
    assert slurm.ask(["101"]).jobs["101"].state == "RUNNING"
    tool("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert slurm.ask(["101"]).jobs["101"].state == "RUNNING", "silence is not an answer"


def test_jobs_that_have_ended_are_cancelled(slurm: Slurm, tool: Tool) -> None:
    said = "scancel: error: Kill job error on job id"
    tool("scancel", f"echo '{said} 7: Job/step already completing or completed' >&2; "
         f"echo '{said} 8: Invalid job id specified' >&2; exit 1")  # fmt: skip
    slurm.cancel(["7", "8"])
    tool("scancel", f"echo '{said} 7: Invalid job id specified' >&2; echo '{said} 8: Access denied' >&2; exit 1")
    with pytest.raises(BertjobsError, match=r"scancel refused: .* 8: Access denied"):
        slurm.cancel(["7", "8"])


def test_the_components_of_a_heterogeneous_job_are_one_job(slurm: Slurm, tool: Tool) -> None:
    tool("sacct", "printf '5+0|RUNNING\\n5+1|RUNNING\\n'")
    tool("squeue", "printf '5+0|RUNNING\\n5+1|RUNNING\\n'")
    assert slurm.states(["5"]) == ({"5": "RUNNING"}, "sacct+squeue")
    tool("squeue", "printf '5+0|r-phase1\\n5+1|r-phase1\\n'")
    tool("scontrol", "echo '   StdOut=/results/r/phase1/logs/slurm-5.out'")
    assert slurm.jobs_of_run("r", Path("/results/r")) == {"5": "r-phase1"}


def test_nodes_without_a_range_are_named_one_by_one_too(slurm: Slurm, tool: Tool) -> None:
    tool("sacct", "echo '5|COMPLETED|0:0|None|node1,gpu7|60|1790000000|1790000100'")
    tool("scontrol", '[[ $* == "show hostnames node1,gpu7" ]] && printf "node1\\ngpu7\\n"')
    assert slurm.jobs(["5"])["5"].nodes == ("node1", "gpu7")


def test_all_commands_go_to_this_machine_s_own_cluster(tool: Tool, tmp_path: Path) -> None:
    there = {"SLURM_CLUSTERS": "remote", "SBATCH_CLUSTERS": "remote"}
    tool("squeue", "env")
    slurm = Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **there})
    assert not [name for name in there if f"{name}=" in slurm.needed(["squeue"])]


def test_silence_of_the_queue_is_not_an_empty_queue(slurm: Slurm, tool: Tool) -> None:
    tool("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(BertjobsError, match=r"squeue could not reach the cluster: .* Unable to contact"):
        slurm.followers("7")
    with pytest.raises(BertjobsError, match="squeue cannot be started: No such file"):
        Slurm({"PATH": "/nowhere"}).pending_of_user()


def test_requeue_and_update_are_scontrol_s(slurm: Slurm, asked: Path, tool: Tool) -> None:
    slurm.requeue("7")
    slurm.update("8", ExcNodeList="node1,node2")
    assert asked.read_text() == "scontrol requeue 7\nscontrol update JobId=8 ExcNodeList=node1,node2\n"
    tool("scontrol", "echo 'Job has already finished' >&2; exit 1")
    with pytest.raises(BertjobsError, match="Job has already finished"):
        slurm.requeue("7")


def test_a_job_was_preempted_if_scontrol_has_a_preemption_time(slurm: Slurm, tool: Tool) -> None:
    tool("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert not slurm.was_preempted("7"), "the controller does not know the job any more"
    tool("scontrol", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(NoAnswer):
        slurm.was_preempted("7")
    tool("scontrol", f"cat <<END\n{SCONTROL}END")
    assert slurm.was_preempted("7")
    tool("scontrol", "echo '   PreemptEligibleTime=2025-01-01T10:00:00 PreemptTime=None'")
    assert not slurm.was_preempted("7")


def test_the_last_state_of_a_running_job_is_that_of_its_previous_start(slurm: Slurm, tool: Tool) -> None:
    assert slurm.last_state("7") == "", "no sacct"
    tool("sacct", '[[ $* == "-nXDP -j 7 -o JobID,State" ]] && printf "7|PREEMPTED\\n7|TIMEOUT\\n7|RUNNING\\n"')
    assert slurm.last_state("7") == "RUNNING"
    assert slurm.last_state("7", is_running=True) == "TIMEOUT"
    assert slurm.last_state("8", is_running=True) == ""


def test_a_follower_inherits_nothing_of_the_job_that_queues_it(asked: Path, tmp_path: Path) -> None:
    inside = {
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/c",
        "SBATCH_QOS": "x",
        "PMIX_RANK": "0",
        "PMI_RANK": "0",
        "HOME": "/h",
    }
    slurm = Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **inside})
    job = slurm.submit_follower("7", "/r/phase1/run.sub", name="r-spare", options=["--exclude=node1"])
    assert job == "9"
    words = "sbatch --parsable --job-name=r-spare --dependency=afterany:7 --exclude=node1 /r/phase1/run.sub\n"
    assert asked.read_text() == words
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert names & inside.keys() == {"SLURM_CONF", "HOME"}


def test_a_follower_that_sbatch_refuses_is_an_error(slurm: Slurm, tool: Tool) -> None:
    tool("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid qos' >&2; exit 1")
    with pytest.raises(InputError, match="Invalid qos"):
        slurm.submit_follower("7", "run.sub", name="r-spare")


@pytest.mark.parametrize("shown", ["a%%j 100%% b", "a%j 100% b", "a%17 100% b", "a%17 100%% b"])
def test_a_job_is_a_run_s_by_the_folder_that_it_writes_to(slurm: Slurm, tool: Tool, shown: str) -> None:
    """However scontrol shows a "%" of it."""
    tool("squeue", "printf '17|long-phase1\\n18|long-phase10x\\n'")
    tool("scontrol", f"echo '   StdOut=/r/{shown}/long/phase1/logs/slurm-17.out'")
    assert slurm.jobs_of_run("long", Path("/r/a%j 100% b/long")) == {"17": "long-phase1"}
    assert slurm.jobs_of_run("long", Path("/r/a%j 100% b/longer")) == {}
    assert slurm.jobs_of_run("long", Path("/other/a%j 100% b/long")) == {}
