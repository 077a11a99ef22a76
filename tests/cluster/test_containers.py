"""Runs in containers on a real Slurm, started by stand-ins for pyxis and Apptainer (tests/cluster/container.py): the
command really runs in another root, where only what was mounted is visible."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bertjobs.data.prepare import PHASES, PrepareOptions, ThisMachine, prepare
from bertjobs.data.prepare.array_options import ArrayOptions
from bertjobs.data.prepare.on_slurm import SlurmArrays
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.container import Container, submitting_code
from tests.cluster.container import Image, full_image, install
from tests.cluster.slurm import Cluster
from tests.cluster.test_prepare import hashes
from tests.conftest import Bertjobs, wait_until
from tests.data.conftest import quiet

RUN_SUB = Path(__file__).parents[2] / "run.sub"
SECRET = 'a,b;$(touch /tmp/x) `id` \\n"q" $HOME\''
STARTERS = ("pyxis", "apptainer")
VARIABLES = {"SEED": "999", "PRECISION": "bf16", "MASKING": "static", "TOKEN": "the image's", "OF_IMAGE": "kept"}


@dataclass(frozen=True)
class Site:
    """A cluster that has ``starter``, and an image for it in the user's folder."""

    cluster: Cluster
    starter: str
    folder: Path
    image: Path

    @property
    def environ(self) -> dict[str, str]:
        path = f"{self.folder / 'tools'}{os.pathsep}{self.cluster.environment['PATH']}"
        return {**self.cluster.environment, "PATH": path}

    def by_hand(self, worker: str, *options: str, image: object = None, **environ: str) -> int:
        """``sbatch run.sub`` whose worker is Python code."""
        named = {"IMAGE": str(image or self.image), "RECIPE": "laptop-scratch", "BERTJOBS_LINK": sys.executable}
        return self.cluster.submit(
            [*options, RUN_SUB, "-c", worker], env={**self.environ, **named, **environ}, cwd=self.folder
        )

    def logs(self) -> str:
        files = sorted(self.folder.rglob("*.out"))
        return "\n".join(f"--- {file}\n{file.read_text()}" for file in files)


@pytest.fixture(params=STARTERS)
def site(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Site:
    install(tmp_path / "tools", request.param)
    image = full_image(PYTORCH_VERSION="2.13", **VARIABLES)
    suffix = {"pyxis": ".sqsh", "apptainer": ".sif"}[request.param]
    return Site(cluster, request.param, tmp_path, image.write(tmp_path / f"image{suffix}"))


@pytest.fixture
def submit(site: Site, bertjobs: Bertjobs, speeches_data: Path) -> Callable[..., RunDirectory]:
    """`bertjobs submit` of a tiny run, in a folder without bertjobs; returns the run's directory at its job's end."""

    def submit(state: str, *more: object, image: Path | None = None) -> RunDirectory:
        words = ("--recipe", "laptop-scratch", "--phase", 1, "--data", speeches_data, "--image", image or site.image)
        done = bertjobs("submit", *words, *more, environ=site.environ)
        assert done.returncode == 0, done.stderr
        directory = RunDirectory(site.folder / "results" / "laptop-scratch")
        (job,) = {event["job"] for event in directory.events() if event["event"] == "submitted"}
        assert site.cluster.wait(job) == state, site.logs()
        return directory

    return submit


SHOW = """
import bertjobs, json, os, pathlib
def write(path):
    try: pathlib.Path(path).write_text("x"); return True
    except OSError: return False
results = pathlib.Path(os.environ["RESULTS"])
seen = {"environ": dict(os.environ), "code": bertjobs.__file__, "cwd": os.getcwd(), "here": write("here")}
seen |= {path: os.path.exists(path) for path in ("/root/.bashrc", os.environ["REPOSITORY"])}
(results / "seen.json").write_text(json.dumps(seen))
"""


def test_the_job_s_settings_win_over_the_image_s_even_where_they_are_empty(site: Site) -> None:
    repository = submitting_code()
    code = {"BERTJOBS_CODE": repository, "REPOSITORY": repository}
    job = site.by_hand(SHOW, "-N1", LR="1e-3", TOKEN=SECRET, BERTJOBS_ENVIRONMENT="TOKEN,UNSET", **code)
    assert site.cluster.wait(job) == "COMPLETED", site.logs()
    inside = json.loads((site.folder / "results" / "seen.json").read_text())
    environ = inside["environ"]
    assert {name: environ[name] for name in ("SEED", "PRECISION", "MASKING", "LR")} == {
        "SEED": "", "PRECISION": "", "MASKING": "", "LR": "1e-3",
    }  # fmt: skip
    assert environ["TOKEN"] == SECRET
    assert environ["OF_IMAGE"] == "kept"
    assert "UNSET" not in environ
    assert SECRET not in (site.folder / f"slurm-{job}.out").read_text()
    assert inside["code"] == "/bertjobs/bertjobs/__init__.py"
    assert inside["cwd"] == str(site.folder)
    assert not inside["here"], "only the results are writable"
    assert not inside["/root/.bashrc"]
    assert not inside[repository]


def test_a_run_is_submitted_from_a_folder_that_is_not_the_checkout_into_an_image_without_bertjobs(
    submit: Callable[..., RunDirectory],
) -> None:
    """Two ranks on two nodes, whose image makes pyxis set RANK; home and checkout are not there."""
    directory = submit("COMPLETED", "--nodes", 2, "--set", "phase1.steps=3")
    assert directory.phase(1).done().step == 3
    (log,) = directory.phase(1).logs.glob("*-0.out")
    assert "world size 2 = 2 nodes x 1 task" in log.read_text()
    assert "seed: 42" in directory.lockfile.read_text()


def test_a_signal_reaches_the_worker_and_its_exit_code_comes_back(site: Site) -> None:
    # Apptainer's process passes on what Slurm sends the worker too. The second would kill a Python that is at its end.
    worker = (
        "import os, signal, time, pathlib\n"
        "signal.signal(signal.SIGUSR2, lambda *_: os._exit(75))\n"
        "pathlib.Path(os.environ['RESULTS'] + '/parent').write_text(open(f'/proc/{os.getppid()}/comm').read())\n"
        "time.sleep(600)"
    )
    job = site.by_hand(worker, "-N1", STEPS_THIS_RUN="1")
    parent = site.folder / "results" / "parent"
    wait_until(lambda: parent.exists() and parent.read_text())
    # Of pyxis's containers the task itself; Apptainer's own process stays between.
    assert parent.read_text().strip() == {"pyxis": "slurmstepd", "apptainer": "python3"}[site.starter]
    site.cluster.run(["scancel", "--signal=USR2", f"{job}.0"])
    assert site.cluster.wait(job) == "FAILED"
    assert site.cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "75:0", site.logs()


def test_a_way_that_the_cluster_does_not_have_is_refused(site: Site) -> None:
    other = {"pyxis": "apptainer", "apptainer": "pyxis"}[site.starter]
    assert site.cluster.wait(site.by_hand("0", "-N1", CONTAINER=other)) == "FAILED"
    assert f"error: CONTAINER is {other}, but " in site.logs()


@pytest.mark.parametrize("site", ["apptainer"], indirect=True)
def test_without_pyxis_a_run_that_names_it_is_not_queued(site: Site, bertjobs: Bertjobs, speeches_data: Path) -> None:
    words = ("--recipe", "laptop-scratch", "--data", speeches_data, "--image", site.image, "--container", "pyxis")
    done = bertjobs("submit", *words, environ=site.environ)
    assert done.returncode == 64
    assert "but srun here has no pyxis (--container-image)\n" in done.stderr
    assert not (site.folder / "results").exists()


@pytest.mark.parametrize("site", ["apptainer"], indirect=True)
def test_a_sandbox_folder_is_an_image_for_apptainer(site: Site) -> None:
    image = full_image(**VARIABLES).write(site.folder / "sandbox")
    assert site.cluster.wait(site.by_hand("print('inside')", "-N1", image=image)) == "COMPLETED", site.logs()
    assert "0: inside" in site.logs()


def test_an_image_whose_python_lacks_torch_is_diagnosed(
    site: Site, submit: Callable[..., RunDirectory], bertjobs: Bertjobs
) -> None:
    bare = Image({"PATH": "/usr/bin:/bin"}).write(site.folder / f"bare{site.image.suffix}")
    submit("FAILED", image=bare)
    done = bertjobs("doctor", "laptop-scratch", environ=site.environ)
    assert "module missing: the Python of the image has no module '" in done.stdout
    assert f"bertjobs image {bare}" in done.stdout
    checked = bertjobs("image", bare, environ=site.environ)
    assert checked.returncode == 64, checked.stdout + checked.stderr
    assert "MISSING no torch" in checked.stdout
    assert "RUN python3 -m pip install 'torch>=" in checked.stdout


def test_what_is_missing_on_a_node_is_named_with_the_node(site: Site, bertjobs: Bertjobs, speeches_data: Path) -> None:
    """The mount's source is there at the submit, and gone when the job starts."""
    gone = site.folder / "gone"
    gone.mkdir()
    words = ("--recipe", "laptop-scratch", "--phase", 1, "--data", speeches_data, "--sbatch=--hold")
    done = bertjobs("submit", *words, "--image", site.image, "--mounts", f"{gone}:/gone", environ=site.environ)
    assert done.returncode == 0, done.stderr
    gone.rmdir()
    (job,) = re.findall(r"queued phase 1 as job (\d+)", done.stdout)
    site.cluster.run(["scontrol", "release", job])
    assert site.cluster.wait(job) == "FAILED"
    done = bertjobs("doctor", "laptop-scratch", environ=site.environ)
    assert "container: the container does not start on node1: " in done.stdout, done.stdout
    assert str(gone) in done.stdout
    command = {"pyxis": "--container-image=", "apptainer": "apptainer exec --bind"}[site.starter]
    assert f"\n  srun -N1 -w node1 {command}" in done.stdout


def test_an_image_is_checked_where_a_run_would_use_it(site: Site, bertjobs: Bertjobs, speeches_data: Path) -> None:
    (site.folder / "results").mkdir()
    folders = ("--data", speeches_data, "--results", site.folder / "results")
    done = bertjobs("image", site.image, *folders, environ=site.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"starting {site.image} on one node, by {site.starter}" in done.stdout
    assert f"ok      {speeches_data} is readable" in done.stdout
    assert f"ok      {site.folder / 'results'} is writable" in done.stdout
    assert "ok      torch " in done.stdout


def test_data_are_prepared_in_an_image(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus is links to files elsewhere; the bytes are those of one machine."""
    monkeypatch.chdir(site.folder)
    real, corpus = tmp_path / "real", tmp_path / "corpus"
    real.mkdir(), corpus.mkdir()
    for number in range(6):
        (real / f"{number}.txt").write_text("The people of the nation were at peace. It was good.\n" * 60)
        (corpus / f"{number}.txt").symlink_to(real / f"{number}.txt")
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz." for prefix in ("", "##")]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]) + "\n")

    def options(name: str) -> PrepareOptions:
        paths = ((f"text:{corpus}",), str(tmp_path / "vocab.txt"), str(tmp_path / name))
        return PrepareOptions(*paths, phases=(PHASES[1],), duplicates=1, shards=2)

    with ThisMachine(1) as machine:
        prepare(options("expected"), quiet, machine)
    container = Container(str(site.image), code=submitting_code())
    messages: list[str] = []
    with SlurmArrays(ArrayOptions(jobs=2, container=container), site.environ, messages.append, grace_s=1) as arrays:
        prepare(options("made"), quiet, arrays)
    assert hashes(tmp_path / "made") == hashes(tmp_path / "expected")
