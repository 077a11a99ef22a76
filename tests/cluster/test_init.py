"""`bertjobs init` on the real Slurm, and its site file in what is queued."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.cluster import Gpus, NodeKind, describe_cluster
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs


@pytest.fixture
def environ(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """This cluster, and a configuration folder of this test's own."""
    return {**cluster.environment, "XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_init_sees_what_the_cluster_was_configured_with(cluster: Cluster, tmp_path: Path) -> None:
    description = describe_cluster(cluster.environment, tmp_path)
    nodes = (NodeKind(4, 16, 4000, (Gpus(8),)),)
    batch, urgent = description.partitions
    assert (batch.name, batch.default, batch.up, batch.limit_s) == ("batch", True, True, 86400)
    assert replace(urgent, preempt_mode="REQUEUE", tier=1, name="batch", default=True) == batch
    assert batch.kinds == nodes
    assert (batch.preempt_mode, batch.tier, urgent.preempt_mode, urgent.tier) == ("REQUEUE", 1, "OFF", 10)
    assert (description.name, description.preempts, description.sacct, description.pyxis) == (
        "bertjobs",
        True,
        True,
        False,
    )
    assert description.default_account == "root"
    assert [association.account for association in description.associations] == ["root"]
    assert description.config["MaxArraySize"] == "1001"


def test_neither_a_surrounding_job_nor_the_user_s_settings_change_what_is_seen(
    cluster: Cluster, tmp_path: Path
) -> None:
    inside = {**cluster.environment, "SLURM_CLUSTERS": "other", "SINFO_PARTITION": "urgent", "SACCT_FEDERATION": "1"}
    assert describe_cluster(inside, tmp_path) == describe_cluster(cluster.environment, tmp_path)


def test_a_site_file_is_written(bertjobs: Bertjobs, environ: dict[str, str], tmp_path: Path) -> None:
    done = bertjobs("init", environ=environ)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "config" / "bertjobs" / "sites" / "bertjobs.yml"
    values = yaml.safe_load(file.read_text())
    assert (values["partition"], values["account"], values["time"]) == ("batch", "root", "1-00:00:00")
    assert "Jobs preempted by those of urgent are queued again." in file.read_text()
    assert "srun has no pyxis" in done.stdout
    assert "sacct answers" in done.stdout


def test_a_site_is_weaker_than_flags_and_stronger_than_defaults(
    cluster: Cluster, bertjobs: Bertjobs, environ: dict[str, str], speeches_data: Path, tmp_path: Path
) -> None:
    assert bertjobs("init", "--site", "first", "--partition", "urgent", environ=environ).returncode == 0
    file = tmp_path / "config" / "bertjobs" / "sites" / "first.yml"
    runs = tmp_path / "runs"
    file.write_text(
        f"partition: urgent\ntime: 2:00:00\ndata: {speeches_data}\nresults: {runs}\n"
        "sbatch: {comment: 'from&site', begin: now+1hour}\n"
    )
    plan = bertjobs("plan", "--recipe", "laptop-scratch", environ=environ)
    assert plan.returncode == 0, plan.stderr
    assert "site first" in plan.stdout

    done = bertjobs("submit", "--recipe", "laptop-scratch", "--phase", 1, "--partition", "batch", environ=environ)
    assert done.returncode == 0, done.stderr
    (submitted,) = [e for e in RunDirectory(runs / "laptop-scratch").events() if e["event"] == "submitted"]
    queued = cluster.run(["squeue", "-ho", "%P|%l|%k", "-j", submitted["job"]]).stdout.strip()
    assert queued == "batch|2:00:00|from&site"
    assert "laptop-scratch" in bertjobs("status", environ=environ).stdout, "found in the site's results"
    assert "cancelled" in bertjobs("cancel", "laptop-scratch", environ=environ).stdout
    shutil.rmtree(runs)

    done = bertjobs("submit", "--recipe", "laptop-scratch", "--phase", 1, "--site", "none", environ=environ)
    assert done.returncode == 64, "without the site there are no data at the default path"
    assert "data/prepared" in done.stderr


def test_a_run_kept_off_slurm_does_not_use_the_site(
    bertjobs: Bertjobs, environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "config" / "bertjobs" / "sites" / "only.yml"
    file.parent.mkdir(parents=True)
    file.write_text("results: /lustre/runs\nimage: /images/a.sqsh\n")
    for arguments in (("--recipe", "laptop"), ("--recipe", "laptop-scratch", "--backend", "local")):
        plan = bertjobs("plan", *arguments, environ=environ)
        assert plan.returncode == 0, plan.stderr
        assert "site only" not in plan.stdout
    assert "site only" in bertjobs("plan", "--recipe", "laptop-scratch", environ=environ).stdout
