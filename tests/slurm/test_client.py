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
    assert [job.id for job in slurm.followers("7", "r-spare")] == ["9"]
    assert (tmp_path / "words").read_text() == "-h --me -t PENDING -o %i|%E|%j\n"


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
