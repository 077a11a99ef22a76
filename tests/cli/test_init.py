"""`bertjobs init` on machines without Slurm, and with programs that answer like a large cluster's."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml

from tests.conftest import Bertjobs
from tests.slurm.test_cluster import ASSOCIATIONS, CONFIG_24_05, SINFO_24_05

ANSWERS = {
    "sinfo": SINFO_24_05,
    "scontrol": CONFIG_24_05,
    "sacct": "",
    "sacctmgr": ASSOCIATIONS,
    "srun": "      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH\n",
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A shell without Slurm, with its own configuration folder."""
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin"), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def install(folder: Path, name: str, says: str, code: int = 0, error: str = "") -> None:
    """A program that prints this text and ends."""
    (folder / f"{name}.txt").write_text(says)
    program = folder / name
    program.write_text(f'#!/bin/sh\nwhile IFS= read -r line; do printf "%s\\n" "$line"; done <"{folder}/{name}.txt"\n'
                       f'[ -z "{error}" ] || echo "{error}" >&2\nexit {code}\n')  # fmt: skip
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def large(environ: dict[str, str]) -> dict[str, str]:
    """A shell with programs that answer like a large cluster's."""
    for name, says in ANSWERS.items():
        install(Path(environ["PATH"]), name, says)
    return environ


def test_without_slurm_it_says_so(bertjobs: Bertjobs, environ: dict[str, str], tmp_path: Path) -> None:
    done = bertjobs("init", environ=environ)
    assert done.returncode == 64
    assert "this machine has no Slurm" in done.stderr
    assert not (tmp_path / "config").exists()


def test_without_a_controller_it_says_so(bertjobs: Bertjobs, environ: dict[str, str]) -> None:
    install(Path(environ["PATH"]), "sinfo", "", 1, "slurm_load_partitions: Unable to contact slurm controller")
    done = bertjobs("init", environ=environ)
    assert done.returncode == 70
    assert "Unable to contact slurm controller" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_answer_of_another_format_is_not_a_traceback(bertjobs: Bertjobs, large: dict[str, str]) -> None:
    install(Path(large["PATH"]), "sinfo", "PARTITION AVAIL TIMELIMIT\n")
    done = bertjobs("init", environ=large)
    assert done.returncode == 70
    assert "sinfo's answer cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_site_is_written_and_kept(bertjobs: Bertjobs, large: dict[str, str], tmp_path: Path) -> None:
    done = bertjobs("init", environ=large)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "config" / "bertjobs" / "sites" / "juno.yml"
    assert f"site juno for partition gpu-a100 written to {file}" in done.stdout
    assert "srun has pyxis" in done.stdout
    assert done.stdout.rstrip().endswith("bertjobs plan --recipe NAME --nodes N")
    assert file.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(file.read_text())["partition"] == "gpu-a100"

    file.write_text("account: edited\n")
    again = bertjobs("init", environ=large)
    assert again.returncode == 64
    assert "site 'juno' exists" in again.stderr
    assert file.read_text() == "account: edited\n"
    assert bertjobs("init", "--yes", environ=large).returncode == 0
    assert yaml.safe_load(file.read_text())["partition"] == "gpu-a100"


def test_several_sites_are_kept(bertjobs: Bertjobs, large: dict[str, str], tmp_path: Path) -> None:
    assert bertjobs("init", environ=large).returncode == 0
    done = bertjobs("init", "--site", "long", "--partition", "cpu", environ=large)
    assert done.returncode == 0, done.stderr
    assert "bertjobs plan --site long" in done.stdout
    files = sorted((tmp_path / "config" / "bertjobs" / "sites").iterdir())
    assert [file.name for file in files] == ["juno.yml", "long.yml"]
    assert yaml.safe_load(files[1].read_text())["partition"] == "cpu"


def test_a_partition_that_does_not_exist_names_the_nearest(bertjobs: Bertjobs, large: dict[str, str]) -> None:
    done = bertjobs("init", "--partition", "gpu-a10", environ=large)
    assert done.returncode == 64
    assert "did you mean 'gpu-a100'?" in done.stderr


@pytest.mark.parametrize("name", ["../x", "none"])
def test_a_bad_name_is_refused_before_slurm_is_asked(bertjobs: Bertjobs, environ: dict[str, str], name: str) -> None:
    done = bertjobs("init", "--site", name, environ=environ)
    assert done.returncode == 64
    assert "Slurm" not in done.stderr


def test_json_holds_the_answers(bertjobs: Bertjobs, large: dict[str, str]) -> None:
    site = json.loads(bertjobs("init", "--json", environ=large).stdout)
    assert site["site"] == "juno"
    assert site["partition"] == "gpu-a100"
    assert [partition["name"] for partition in site["partitions"]][:2] == ["cpu", "gpu-a100"]
    assert site["partitions"][1]["kinds"][0]["gpus"] == [{"count": 8, "kind": "a100"}]
    assert site["pyxis"] is True


def test_what_the_configuration_hides_is_neither_kept_nor_printed(
    bertjobs: Bertjobs, large: dict[str, str], tmp_path: Path
) -> None:
    install(Path(large["PATH"]), "scontrol", CONFIG_24_05 + "AccountingStoragePass   = s3cr3t\n")
    done = bertjobs("init", "--json", environ={**large, "MY_TOKEN": "s3cr3t"})
    assert done.returncode == 0
    assert "s3cr3t" not in done.stdout + done.stderr
    written = (tmp_path / "config" / "bertjobs" / "sites" / "juno.yml").read_text()
    assert "s3cr3t" not in written
