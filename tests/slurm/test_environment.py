"""What jobs and Slurm's commands find in their environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.slurm.environment import (
    LEAKING,
    clean_environment,
    not_passed_on,
    process_environment,
    unfiltered,
    users_defaults,
    with_package,
)

OUTSIDE = {"SLURM_CONF": "/c", "HOME": "/h", "PATH": "/bin", "HF_TOKEN": "x"}


@pytest.mark.parametrize("prefix", LEAKING)
def test_nothing_of_a_surrounding_job_reaches_a_new_one(prefix: str) -> None:
    assert clean_environment({**OUTSIDE, f"{prefix}X": "1"}) == OUTSIDE


@pytest.mark.parametrize("name", ["LR", "BATCHSIZE", "BATCH_SIZE"])
def test_settings_do_not_reach_jobs_which_have_a_lockfile(name: str) -> None:
    assert clean_environment({**OUTSIDE, name: "1"}) == OUTSIDE


@pytest.mark.parametrize("name", ["SINFO_PARTITION", "SACCT_FORMAT", "SQUEUE_STATES"])
def test_slurm_is_asked_without_the_user_s_filters(name: str) -> None:
    assert unfiltered({**OUTSIDE, name: "x"}) == OUTSIDE


def test_an_uninstalled_package_can_be_imported_by_jobs() -> None:
    assert with_package(OUTSIDE, Path("/usr/lib/site-packages")) == OUTSIDE
    assert with_package(OUTSIDE, Path("/src"))["PYTHONPATH"] == "/src"
    assert with_package({**OUTSIDE, "PYTHONPATH": "/a"}, Path("/src"))["PYTHONPATH"] == "/src:/a"


def test_this_process_can_have_another_environment_temporarily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = dict(os.environ)
    with process_environment(OUTSIDE):
        assert dict(os.environ) == OUTSIDE
        os.environ["NEW"] = "1"
    assert dict(os.environ) == before
    with pytest.raises(KeyError), process_environment(OUTSIDE):
        raise KeyError
    assert dict(os.environ) == before


def test_what_a_shell_says_to_sbatch_in_vain_is_known() -> None:
    shell = {**OUTSIDE, "SBATCH_PARTITION": "gpu", "SBATCH_RESERVATION": "course", "SLURM_CLUSTERS": "other"}
    assert not_passed_on(shell) == ["SBATCH_RESERVATION", "SLURM_CLUSTERS"]
    assert not_passed_on({**shell, "SLURM_JOB_ID": "7"}) == []


def test_the_user_s_own_defaults_for_sbatch_are_kept_outside_of_a_job() -> None:
    shell = {"SBATCH_PARTITION": "gpu", "SBATCH_ACCOUNT": "me", "SBATCH_QOS": "high", "SBATCH_TIMELIMIT": "4:00:00"}
    expected = {"partition": "gpu", "account": "me", "qos": "high", "time": "4:00:00"}
    assert users_defaults({**shell, "SBATCH_EXPORT": "NONE"}) == expected
    assert users_defaults({**shell, "SLURM_JOB_ID": "7"}) == {}, "a job's variables are not the user's choice"
    with pytest.raises(InputError, match="cannot be given to sbatch"):
        users_defaults({"SBATCH_PARTITION": "gpu\ntouch x"})
