"""What Slurm 23.11, 24.05, 24.11 and 25.05 print, from records that users and centres have published, is read."""

from __future__ import annotations

import pytest

from bertjobs.slurm.cluster import Gpus, gpus_given, parse_config, parse_gres, parse_sinfo
from bertjobs.slurm.jobs import elements_of_squeue, jobs_of_sacct, jobs_of_squeue, record_of_scontrol, starts_of_sacct
from bertjobs.slurm.reasons import reason_words
from bertjobs.slurm.start_estimate import StartEstimate, parse_start_estimate

NODE_23_11 = """\
NodeName=hgpn01 Arch=x86_64 CoresPerSocket=56
   CPUAlloc=9 CPUEfctv=104 CPUTot=112 CPULoad=37.41
   AvailableFeatures=(null)
   ActiveFeatures=(null)
   Gres=gpu:H100:8(S:0-1)
   NodeAddr=hgpn01 NodeHostName=hgpn01 Version=23.11.11
   OS=Linux 4.18.0-553.144.1.el8_10.x86_64 #1 SMP Mon Jul 13 11:33:25 EDT 2026
   RealMemory=1900000 AllocMem=327680 FreeMem=1107433 Sockets=2 Boards=1
   CoreSpecCount=8 CPUSpecList=52-55,108-111
   State=MIXED ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   Partitions=dev
   CfgTRES=cpu=104,mem=1900000M,billing=104,gres/gpu=8
   AllocTRES=cpu=9,mem=320G,gres/gpu=2
   CapWatts=n/a
"""
NODE_24_05 = """\
NodeName=hpc3-gpu-16-00 Arch=x86_64 CoresPerSocket=20
   CPUAlloc=26 CPUEfctv=40 CPUTot=40 CPULoad=6.80
   AvailableFeatures=intel,avx512,mlx5_ib
   Gres=gpu:V100:4
   NodeAddr=hpc3-gpu-16-00 NodeHostName=hpc3-gpu-16-00 Version=24.05.3
   OS=Linux 4.18.0-477.15.1.el8_8.x86_64 #1 SMP Wed Jun 28 15:04:18 UTC 2023
   State=MIXED ThreadsPerCore=1 TmpDisk=228000 Weight=3 Owner=N/A MCS_label=N/A
   CfgTRES=cpu=40,mem=187.50G,billing=168,gres/gpu=4
   AllocTRES=cpu=26,mem=150720M,gres/gpu=4
   CurrentWatts=0 AveWatts=0
"""
NODE_24_11 = """\
NodeName=node01 Arch=x86_64 CoresPerSocket=1
   CPUAlloc=1 CPUEfctv=1 CPUTot=1 CPULoad=1.00
   Gres=(null)
   NodeAddr=100.71.155.103 NodeHostName=node01 Version=24.11.5
   OS=Linux 6.12.90+deb13-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.12.90-1 (2026-05-22)
   State=ALLOCATED ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   CfgTRES=cpu=1,mem=1800M,billing=1
   AllocTRES=cpu=1
"""
NODE_25_05 = """\
NodeName=hpc7g-1 Arch=aarch64 CoresPerSocket=1
   CPUAlloc=0 CPUEfctv=64 CPUTot=64 CPULoad=0.00
   AvailableFeatures=hpc7g
   Gres=(null)
   NodeAddr=10.3.140.69 NodeHostName=ip-10-3-140-69 Version=25.05.5
   OS=Linux 5.10.218-208.862.amzn2.aarch64 #1 SMP Tue Jun 4 16:52:10 UTC 2024
   State=IDLE+CLOUD ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   Reason=Maintain Minimum Number Of Instances [root@2024-07-02T18:59:00]
   InstanceId=i-04927897a9ce3c143 InstanceType=hpc7g.16xlarge
"""


@pytest.mark.parametrize(
    ("text", "address", "version", "gpus"),
    [
        (NODE_23_11, "hgpn01", "23.11.11", (Gpus(8, "H100"),)),
        (NODE_24_05, "hpc3-gpu-16-00", "24.05.3", (Gpus(4, "V100"),)),
        (NODE_24_11, "100.71.155.103", "24.11.5", ()),
        (NODE_25_05, "10.3.140.69", "25.05.5", ()),
    ],
)
def test_a_node(text: str, address: str, version: str, gpus: tuple[Gpus, ...]) -> None:
    record = record_of_scontrol(text)
    assert (record["NodeAddr"], record["Version"]) == (address, version)
    assert parse_gres(record["Gres"]) == gpus


JOB_24_11 = """\
JobId=34815931 JobName=compiler run
   UserId=me(2897) GroupId=folk(3001) MCS_label=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:07 TimeLimit=00:10:00 TimeMin=N/A
   PreemptEligibleTime=2026-08-06T17:21:12 PreemptTime=None
   SuspendTime=None SecsPreSuspend=0 LastSchedEval=2025-06-24T11:36:32 Scheduler=Main
   NodeList=b-cn[1703,1705]
   NumNodes=2 NumCPUs=12 NumTasks=12 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   ReqTRES=cpu=12,mem=30192M,node=1,billing=12
   AllocTRES=cpu=72,mem=30192M,node=2,billing=12,gres/gpu=8,gres/gpu:rtx2080ti=8
   OverSubscribe=NO Contiguous=0 Licenses=(null) Network=(null)
   Command=/pfs/proj/a folder/compile-run.sh
   StdErr=/pfs/proj/logs/slurm-34815931.out
   StdOut=/pfs/proj/logs/slurm-34815931.out
   TresPerNode=gres/gpu:4
"""


def test_a_job() -> None:
    record = record_of_scontrol(JOB_24_11)
    assert (record["JobState"], record["OverSubscribe"], record["TresPerNode"]) == ("RUNNING", "NO", "gres/gpu:4")
    assert record["StdOut"] == "/pfs/proj/logs/slurm-34815931.out"
    assert record["PreemptTime"] == "None"
    assert gpus_given(record) == 8


@pytest.mark.parametrize(
    ("record", "gpus"),
    [
        ({"TRES": "cpu=64,mem=15G,node=4,billing=64,gres/gpu=32"}, 32),  # 22.05
        ({"ReqTRES": "cpu=2,node=1,gres/gpu=9", "AllocTRES": "cpu=36,gres/gpu:rtx2080ti=4,gres/gpu=4,node=1"}, 4),
        ({"AllocTRES": "cpu=96,mem=960G,billing=128,gres/gpu:a800=8"}, 8),  # a site that counts types only
        ({"AllocTRES": "gres/gpu:a100=2,gres/gpu:v100=1"}, 3),
        ({"JOB_GRES": "gpu:a100:16", "AllocTRES": "cpu=8,node=2"}, 16),  # accounting that counts no GPUs
        ({"AllocTRES": "cpu=8,gres/gpumem=80G"}, 0),
        ({}, 0),
    ],
)
def test_the_gpus_of_a_job(record: dict[str, str], gpus: int) -> None:
    assert gpus_given(record) == gpus


CONFIG_25_05 = """\
Configuration data as of 2026-10-07T13:00:00
AccountingStorageExternalHost = (null)
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = killarney
PreemptType             = (null)
PriorityWeightTRES      = cpu=15000,gres/gpu=15000
SLURM_VERSION           = 25.05.9
SwitchType              = (null)
TaskPluginParam         = (null type)
Slurmctld(primary) at kctl01 is UP
"""


def test_a_configuration() -> None:
    assert parse_config(CONFIG_25_05) == {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "ClusterName": "killarney",
        "SLURM_VERSION": "25.05.9",
    }


def test_sinfo_of_typed_gpus_with_sockets_and_indices() -> None:
    text = (
        "ai*|up|infinite|n/a|8|96|983040|gpu:a800:8(S:0-1)|OFF|1\n"
        "main|up|1-00:00:00|n/a|1|10+|15708+|gpu:nvidia_geforce_rtx_2080_ti:1(S:0-9)|OFF|1\n"
    )
    first, second = parse_sinfo(text)
    assert first.gpu_types == {"a800": 8}
    assert second.gpu_types == {"nvidia_geforce_rtx_2080_ti": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sbatch: Job 5837 to start at 2025-10-04T19:33:09 using 8 processors on nodes gpu01 in partition V100\n",
            StartEstimate(starts_at="2025-10-04T19:33:09", nodes="gpu01"),
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available\n",
            StartEstimate(refusal="Batch job submission failed: Requested node configuration is not available"),
        ),
        (
            "allocation failure: Invalid generic resource (gres) specification\n",
            StartEstimate(refusal="Invalid generic resource (gres) specification"),
        ),
    ],
)
def test_sbatch_test_only(text: str, expected: StartEstimate) -> None:
    assert parse_start_estimate(text) == expected


def test_sacct_and_squeue() -> None:
    sacct = (
        "8117657|NODE_FAIL|1:0|None|gpu[01-02]|1-00:00:00|1728000000|1728003600\n"
        "8117657.batch|CANCELLED|0:15||gpu01||1728000000|1728003600\n"
        "8117657.extern|COMPLETED|0:0||gpu[01-02]||1728000000|1728003600\n"
        "8117657|PENDING|0:0|launch_failed_requeued_held|None assigned|1-00:00:00|None|None\n"
    )
    job = jobs_of_sacct(sacct)["8117657"]
    assert (job.state, job.past, job.reason) == ("PENDING", ("NODE_FAIL",), "launch_failed_requeued_held")
    assert [start.state for start in starts_of_sacct(sacct)["8117657"]] == ["NODE_FAIL", "PENDING"]
    queued = jobs_of_squeue("8117657|PENDING|launch_failed_requeued_held||1-00:00:00|N/A\n", {"8117657": job})
    assert "Slurm holds it until it is released" in reason_words(queued["8117657"].reason)
    elements = elements_of_squeue("21_0|RUNNING|run|None\n21_[1-3%2]|PENDING|run|JobArrayTaskLimit\n", "run")
    assert elements.keys() == {"21_0", "21"}
