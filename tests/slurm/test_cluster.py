"""What Slurm's commands print, of several versions, becomes partitions, GPUs, limits, accounts and file systems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.cluster import (
    Association,
    Gpus,
    NodeKind,
    Partition,
    choose_partition,
    describe_cluster,
    max_array_size,
    parse_associations,
    parse_config,
    parse_gres,
    parse_sinfo,
    partitions_of,
)
from tests.slurm.conftest import Tool

# Printed by the tests' own Slurm, 22.05.8, after two changes by scontrol.
SINFO_22_05 = """\
batch*|up|1-00:00:00|n/a|4|16|4000|gpu:8|REQUEUE|1
urgent|down|infinite|n/a|4|16|4000|gpu:8|OFF|10
gang|up|10:00|n/a|1|16|4000|gpu:8|CANCEL|1
"""
CONFIG_22_05 = """\
Configuration data as of 2026-11-21T18:21:13
AccountingStorageBackupHost = (null)
AccountingStoragePort   = 30115
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages,gres/gpu
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = bertjobs
JobRequeue              = 1
MaxArraySize            = 1001
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
PreemptExemptTime       = 00:00:00
SelectType              = select/cons_tres
SelectTypeParameters    = CR_CPU
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
"""

# In the formats that sinfo(1) and scontrol(1) of 24.05 describe, for clusters with typed, several, MIG and no GPUs.
SINFO_24_05 = """\
cpu*|up|3-00:00:00|1:00:00|200|128+|257000+|(null)|REQUEUE|1
gpu-a100|up|2-00:00:00|4:00:00|40|128|515000|gpu:a100:8(S:0-1)|REQUEUE|1
gpu-a100|up|2-00:00:00|4:00:00|2|128|1031000|gpu:a100:8(S:0-1),nvme:1|REQUEUE|1
gpu-mixed|up|infinite|n/a|3|64|515000|gpu:nvidia_h100_80gb_hbm3:4(S:0,1),gpu:l4:2(S:1)|GANG,SUSPEND|5
mig|up|8:00:00|1:00:00|1|64|515000|gpu:a100_1g.5gb:28(S:0-1),shard:a100:16(S:0)|OFF|5
old|inact|30:00|n/a|6|32|128000|gpu:tesla:4|CANCEL|1
empty|up|infinite|n/a|0|0|0|(null)|OFF|1
"""
CONFIG_24_05 = """\
Configuration data as of 2026-03-02T10:00:00
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = juno
JobRequeue              = 0
MaxArraySize            = 10001
PreemptMode             = GANG,SUSPEND
PreemptParameters       = (null)
PreemptType             = preempt/partition_prio
SelectType              = select/cons_tres
SLURM_VERSION           = 24.05.2

Cgroup Support Configuration:
CgroupPlugin            = cgroup/v2
"""
ASSOCIATIONS = "bio||high,normal|high\nproj@a100|gpu-a100|normal|\n"


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:8", [Gpus(8)]),
        ("gpu:a100:8(S:0-1)", [Gpus(8, "a100")]),
        ("gpu:h100:4(S:0,1),gpu:l4:2(S:1)", [Gpus(4, "h100"), Gpus(2, "l4")]),
        ("gpu:a100_3g.20gb:4(IDX:0-3),nvme:1", [Gpus(4, "a100_3g.20gb")]),
        ("mps:400,shard:gpu:16,craynetwork:4", []),
        ("gpu", [Gpus(1)]),
        ("gpu:a100", [Gpus(1, "a100")]),
        ("gpu:no_consume:2", [Gpus(2)]),
        ("gpu:a100:no_consume:2", [Gpus(2, "a100")]),
        ("gpu:0", []),
        ("(null)", []),
        ("", []),
    ],
)
def test_gpus_of_a_node(text: str, gpus: list[Gpus]) -> None:
    assert list(parse_gres(text)) == gpus


def test_partitions_of_22_05() -> None:
    nodes = (NodeKind(4, 16, 4000, (Gpus(8),)),)
    assert parse_sinfo(SINFO_22_05) == (
        Partition("batch", True, True, 86400, None, nodes, "REQUEUE", 1),
        Partition("urgent", False, False, None, None, nodes, "OFF", 10),
        Partition("gang", False, True, 600, None, (replace(nodes[0], nodes=1),), "CANCEL", 1),
    )


def test_partitions_of_24_05() -> None:
    partitions = {partition.name: partition for partition in parse_sinfo(SINFO_24_05)}
    assert partitions["cpu"] == Partition("cpu", True, True, 259200, 3600, (NodeKind(200, 128, 257000),), "REQUEUE", 1)
    assert (partitions["gpu-a100"].nodes, partitions["gpu-a100"].gpus) == (42, 336)
    assert len(partitions["gpu-a100"].kinds) == 2
    assert partitions["gpu-mixed"].kinds[0].gpu_count() == 6
    assert partitions["gpu-mixed"].kinds[0].gpu_count("l4") == 2
    assert partitions["gpu-mixed"].gpu_types == {"nvidia_h100_80gb_hbm3": 4, "l4": 2}
    assert partitions["cpu"].gpu_types == {}
    assert partitions["gpu-mixed"].limit_s is None
    assert partitions["mig"].gpus == 28
    assert not partitions["old"].up
    assert partitions["empty"].kinds == ()


@pytest.mark.parametrize("text", ["batch*|up|1-00:00:00\n", "PARTITION AVAIL\n", SINFO_22_05.replace("|4|", "|four|")])
def test_an_answer_of_another_format_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"this line has another format|invalid literal"):
        parse_sinfo(text)


def test_configuration_of_both() -> None:
    assert parse_config(CONFIG_22_05) == {
        "ClusterName": "bertjobs",
        "SLURM_VERSION": "22.05.8",
        "SelectType": "select/cons_tres",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "JobRequeue": "1",
        "MaxArraySize": "1001",
        "AccountingStorageType": "accounting_storage/slurmdbd",
    }
    newer = parse_config(CONFIG_24_05 + "SelectType = (null)\n")
    assert (newer["SLURM_VERSION"], newer["PreemptMode"], newer["JobRequeue"]) == ("24.05.2", "GANG,SUSPEND", "0")
    assert "SelectType" not in newer, "unset"


def test_associations() -> None:
    assert parse_associations("root||normal|\nbio||high,normal|high\n") == (  # by 22.05.8
        Association("root", "", ("normal",), ""),
        Association("bio", "", ("high", "normal"), "high"),
    )
    assert parse_associations(ASSOCIATIONS)[1] == Association("proj@a100", "gpu-a100", ("normal",), "")
    assert parse_associations("") == parse_associations(" You are not running a supported accounting_storage plugin\n")
    assert len(parse_associations("bio||a|\n" * 3)) == 1


def test_the_partition_to_train_in() -> None:
    partitions = parse_sinfo(SINFO_24_05)
    assert choose_partition(partitions).name == "gpu-a100", "the one with most GPUs of those that are up"
    assert choose_partition(partitions, "mig").name == "mig"
    assert choose_partition(parse_sinfo(SINFO_22_05)).name == "batch", "the default, as it has GPUs"
    assert choose_partition(partitions[:1]).name == "cpu", "without GPUs, the one with most nodes"
    with pytest.raises(InputError, match="did you mean 'gpu-mixed'"):
        choose_partition(partitions, "gpu-mixd")
    with pytest.raises(InputError, match="no partition of this cluster is up"):
        choose_partition([partitions[5]])
    with pytest.raises(InputError, match="no partition of this cluster is up"):
        choose_partition([])


def test_a_machine_without_slurm_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this machine has no Slurm"):
        describe_cluster({"PATH": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize(
    ("configuration", "size"),
    [("MaxArrayTasks = 7\nMaxArraySize            = 1001", 1001), ("MaxArraySize = 0", 1), ("", 1001)],
)
def test_the_size_of_arrays_is_that_of_the_configuration(
    tool: Tool, tmp_path: Path, configuration: str, size: int
) -> None:
    tool("scontrol", f'[[ $* == "show config" ]] && echo "{configuration}"')
    assert max_array_size(Slurm({"PATH": str(tmp_path / "bin")})) == size
    assert max_array_size(Slurm({"PATH": "/nowhere"})) == 1001


def test_partitions_are_unknown_if_sinfo_cannot_be_read(tool: Tool, tmp_path: Path) -> None:
    slurm = Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    assert partitions_of(slurm) == ()
    tool("sinfo", "echo 'another format'")
    assert partitions_of(slurm) == ()
    tool("sinfo", f"cat <<END\n{SINFO_22_05}END")
    assert partitions_of(slurm) == parse_sinfo(SINFO_22_05)
