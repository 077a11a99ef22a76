"""A real Slurm of four nodes on this machine, in a folder of its own: for tests, and for developers by hand.

Debian's and Ubuntu's own packages (scripts/install_slurm.sh), run as root without systemd: munged, mariadbd,
slurmdbd, slurmctld and four slurmd, all with private keys, sockets, ports and state, so that clusters see
neither each other nor a Slurm that is installed on the machine. Nodes claim 16 CPUs and 8 GPUs each that need not
exist: the GPUs are links to /dev/null, which Slurm allocates, counts and numbers in CUDA_VISIBLE_DEVICES.

Only the standard library: scripts/cluster runs this with the system's Python.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.cluster.configuration import DATABASE_SQL, GRES_CONF, MAIL_PROGRAM, SLURM_CONF, SLURMDBD_CONF, cgroup_conf
from tests.cluster.process import Process, job_processes

NODES = ("node1", "node2", "node3", "node4")
CPUS_PER_NODE = 16
GPUS_PER_NODE = 8

FINAL_STATES = frozenset(
    ["BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"]
)
PROGRAMS = [
    *("munged", "mungekey", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "setpriv"),
    *("sbatch", "srun", "sacct", "sacctmgr", "scancel", "scontrol", "sinfo", "squeue"),
]
PATIENCE_S = 900.0
"""How long something is waited for that has to happen: no statement on how fast it is, other programs may run too."""
PLACES = 100
"""How many clusters can be on this machine at once."""
# A Unix socket's path holds 107 bytes; mariadbd's and slurmstepd's need up to 40 of them.
LONGEST_FOLDER = 64

# Variables of a surrounding Slurm job or MPI launcher: they would leak into the jobs submitted from here.
FOREIGN_PREFIXES = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "SACCT", "SCANCEL", "SINFO", "PMI", "OMPI_")


Seen = TypeVar("Seen")


class ClusterError(Exception):
    """The cluster did not boot, or a job did not do what was expected; shows the end of the logs."""


def why_unavailable() -> str | None:
    """Why no cluster can be booted on this machine, in one line, or None when one can."""
    if os.geteuid() != 0:
        return "no Slurm cluster: booting one needs root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=_search_path(os.environ)) is None]
    if missing:
        return f"no Slurm cluster: scripts/install_slurm.sh has not installed {', '.join(missing)}"
    return None


def is_foreign(name: str) -> bool:
    """Whether an environment variable of this name comes from a surrounding Slurm job or MPI launcher."""
    return name.startswith(FOREIGN_PREFIXES)


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without the variables of a surrounding Slurm job and the number of threads, which jobs choose,
    with /usr/sbin on its PATH."""
    kept = {name: value for name, value in environment.items() if not is_foreign(name) and name != "OMP_NUM_THREADS"}
    return {**kept, "PATH": _search_path(environment)}


def _search_path(environment: Mapping[str, str]) -> str:
    parts = environment.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*parts, *(extra for extra in ("/usr/sbin", "/sbin") if extra not in parts)])


def _slurm_version() -> tuple[int, int]:
    words = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True).stdout.split()
    year, month = words[-1].split(".")[:2]
    return int(year), int(month)


def _claim_place() -> tuple[socket.socket, int]:
    """One of ``PLACES``, 0 and up, that no other cluster on this machine has, and what claims it while it is open, here
    or in a process that inherited it. Nobody listens on the place's ports yet."""
    for place in random.sample(range(PLACES), PLACES):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0bertjobs-slurm-{_ports(place)[0]}")  # in no folder, and gone with its last owner
        except OSError:
            claim.close()
            continue
        if all(map(_is_free, _ports(place))):
            return claim, place
        claim.close()
    raise ClusterError(f"found no free TCP ports from {_ports(0)[0]} to {_ports(PLACES - 1)[-1]}")


def _ports(place: int) -> range:
    """The ports of a place: below those where the ranks of jobs meet, which are below those of outgoing connections."""
    count = 3 + len(NODES)
    return range(10_000 + place * count, 10_000 + (place + 1) * count)


def _first_job(place: int) -> int:
    """A first job's number, so that jobs of different places have different ports, which run.sub counts from it."""
    return 1 + 12_000 * random.randrange(5) + 12_000 // PLACES * place


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


class Cluster:
    """A booted cluster; make one with ``boot``, or with ``open`` for one that another process booted.

    Attributes:
        folder: holds all of its files: configuration, keys, logs, state, database.
        environment: what a process needs to speak to this cluster and to no other: this process's own
            environment without SLURM_* and the like, plus SLURM_CONF.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**scrubbed(os.environ), "SLURM_CONF": str(folder / "slurm.conf")}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self._claim: socket.socket | None = None

    @classmethod
    def boot(cls, folder: Path, *, outlive: bool = False, changes: Mapping[str, str] | None = None) -> Cluster:
        """Starts all daemons with files only under ``folder``, and waits until the four nodes are idle.

        The daemons end with ``stop``, at this interpreter's exit, or when the calling thread is killed,
        unless they are to ``outlive`` it. ``changes``: parts of its configuration files -> what stands there
        instead. Raises ClusterError with the logs' ends when it cannot boot.
        """
        folder = folder.resolve()
        if len(str(folder)) > LONGEST_FOLDER:
            raise ClusterError(f"{folder}: too long for the Unix sockets in it; {LONGEST_FOLDER} bytes at most")
        if (folder / "slurm.conf").exists():
            raise ClusterError(f"{folder}: holds a cluster already; each boot needs a folder of its own")
        cluster = cls(folder)
        if not outlive:
            atexit.register(cluster.stop)
        try:
            cluster._start(outlive, changes or {})
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def open(cls, folder: Path) -> Cluster:
        """The cluster that was booted in ``folder``; raises ClusterError when there is none."""
        folder = folder.resolve()
        if not (folder / "slurm.conf").exists():
            raise ClusterError(f"{folder}: no cluster was booted here")
        return cls(folder)

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
        timeout: float = PATIENCE_S,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command against this cluster, as a user would type it.

        ``env`` is added to ``environment``. With ``check``, an exit code other than 0 raises ClusterError
        with what the command wrote.
        """
        done = subprocess.run(
            list(command), env={**self.environment, **(env or {})}, cwd=cwd or self.folder, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise ClusterError(f"{command} exited {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def submit(
        self, arguments: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> int:
        """``sbatch`` with these arguments, in ``cwd`` (by default the cluster's folder); the job's id."""
        done = self.run(["sbatch", "--parsable", *map(str, arguments)], env=env, cwd=cwd)
        return int(done.stdout.strip().partition(";")[0])

    def clear(self, timeout: float = PATIENCE_S) -> None:
        """Kills and cancels all jobs; raises ClusterError when some are left after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.run(["squeue", "-ho", "%i"]).stdout.strip():
            if time.monotonic() > deadline:
                raise ClusterError(f"jobs do not end:\n{self.run(['squeue']).stdout}{self.log_tail('slurmctld.log')}")
            self.run(["scancel", "--full", "--signal=KILL", "--state=RUNNING"], check=False)
            self.run(["scancel", f"--user={os.geteuid()}"], check=False)
            time.sleep(0.2)

    def sacct_state(self, job_id: int | str) -> str:
        """The job's state as accounting has it, one word such as "COMPLETED"; "" while it has no record."""
        done = self.run(["sacct", "-nXP", "-o", "State", "-j", str(job_id)])
        words = done.stdout.split()
        return words[0] if words else ""

    def accounted(self, job_id: int | str, *fields: str, timeout: float = PATIENCE_S) -> list[list[str]]:
        """These fields of a job that has ended, row by row, once accounting has them all: of a short job the limits and
        resources can be recorded after its state. Raises ClusterError after ``timeout`` seconds."""

        def whole() -> list[list[str]]:
            done = self.run(["sacct", "-nXP", "-o", ",".join(fields), "-j", str(job_id)])
            rows = [line.split("|") for line in done.stdout.splitlines()]
            return rows if all(map(all, rows)) else []

        return self._wait_for(job_id, timeout, f"{', '.join(fields)} in accounting", whole)

    def squeue_state(self, job_id: int | str) -> str:
        """The job's state in the queue, one word such as "RUNNING", of several components the first one's; "" when it
        is not queued any more."""
        words = self.run(["squeue", "-ho", "%T", "-j", str(job_id)], check=False).stdout.split()
        return words[0] if words else ""

    def wait(self, job_id: int | str, timeout: float = PATIENCE_S) -> str:
        """Waits until the job has ended and accounting knows how: its final state, such as "COMPLETED".

        A job that was requeued has not ended. Raises ClusterError after ``timeout`` seconds.
        """
        return self._wait_for(
            job_id, timeout, "a final state",
            lambda: "" if self.squeue_state(job_id) else _if_final(self.sacct_state(job_id)),
        )  # fmt: skip

    def wait_queue(self, job_id: int | str, state: str, timeout: float = PATIENCE_S) -> None:
        """Waits until squeue shows the job in ``state``; raises ClusterError after ``timeout`` seconds."""
        self._wait_for(job_id, timeout, state, lambda: state if self.squeue_state(job_id) == state else "")

    def _wait_for(self, job_id: int | str, timeout: float, what: str, seen: Callable[[], Seen]) -> Seen:
        deadline = time.monotonic() + timeout
        while not (result := seen()):
            if time.monotonic() > deadline:
                job = self.run(["scontrol", "show", "job", str(job_id)], check=False)
                raise ClusterError(
                    f"job {job_id} did not reach {what} within {timeout:g} s: squeue says "
                    f"{self.squeue_state(job_id)!r}, sacct {self.sacct_state(job_id)!r}\n"
                    f"{job.stdout}{job.stderr}\n{self.log_tail('slurmctld.log')}"
                )
            time.sleep(0.2)
        return result

    def mails(self) -> list[str]:
        """Subject and address of each mail that Slurm has sent, in order."""
        path = self.folder / "log" / "mail"
        return path.read_text().splitlines() if path.exists() else []

    def log_tail(self, name: str, lines: int = 30) -> str:
        """The last lines of a file in the log folder, such as "slurmctld.log", under its path."""
        path = self.folder / "log" / name
        text = path.read_text(errors="replace") if path.exists() else "(no log)"
        return "\n".join([f"--- {path}", *text.splitlines()[-lines:]])

    def kill(self, daemon: str) -> None:
        """Kills one daemon, such as "slurmctld" or "slurmd-node1", so that it can write nothing more."""
        child = self._children.pop(daemon)
        Process.of(child.pid).send(signal.SIGKILL)
        child.wait()

    def pause(self, daemon: str) -> None:
        """Stops a daemon, which then answers nobody but loses nothing, until `unpause`."""
        Process.of(self._children[daemon].pid).send(signal.SIGSTOP)

    def unpause(self, daemon: str) -> None:
        """Lets a paused daemon continue."""
        Process.of(self._children[daemon].pid).send(signal.SIGCONT)

    def start_again(self, daemon: str) -> None:
        """Starts a daemon that was killed."""
        self._spawn(daemon, self._commands[daemon], outlive=False)

    def stop(self) -> None:
        """Kills all daemons, job steps and tasks at once; the folder with its logs stays."""
        for process in self._recorded():
            process.send(signal.SIGKILL)
        for child in self._children.values():
            child.wait()
        if self._claim:
            self._claim.close()
        deadline = time.monotonic() + 5
        # Again until none is left: a task may fork, or a slurmstepd start one, while we look.
        while (steps := list(job_processes(self.folder))) and time.monotonic() < deadline:
            for process in steps:
                process.send(signal.SIGKILL)
            time.sleep(0.05)

    def _recorded(self) -> list[Process]:
        path = self.folder / "run" / "processes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Process(*map(int, line.split())) for line in lines]

    def _start(self, outlive: bool, changes: Mapping[str, str]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        for name in ("run", "log", "munge", "state", "spool", "gpu", "database"):
            (self.folder / name).mkdir(mode=0o700, parents=True)
        database_port, controller_port = self._write_configuration(changes)
        self._start_munged(outlive, deadline)
        self._start_database(database_port, outlive, deadline)
        self._spawn("slurmdbd", ["slurmdbd", "-D"], outlive)
        adding = ["sacctmgr", "-i", "add", "cluster", "bertjobs"]
        self._until("slurmdbd", deadline, lambda: self.run(adding, check=False).returncode == 0)
        self._spawn("slurmctld", ["slurmctld", "-D"], outlive)
        # A client or slurmd that finds no controller yet sleeps for seconds before it asks again.
        self._until("slurmctld", deadline, lambda: _listens(controller_port))
        for node in NODES:
            self._spawn(f"slurmd-{node}", ["slurmd", "-D", "-N", node], outlive)
        self._until("slurmctld", deadline, self._nodes_idle)

    def _write_configuration(self, changes: Mapping[str, str]) -> tuple[int, int]:
        """Writes all configuration files; returns the ports of mariadbd and slurmctld."""
        self._claim, place = _claim_place()
        database_port, slurmdbd_port, slurmctld_port, *node_ports = _ports(place)
        password = secrets.token_hex(16)
        values = {
            "folder": self.folder, "host": socket.gethostname().split(".")[0], "password": password,
            "slurmctld_port": slurmctld_port, "slurmdbd_port": slurmdbd_port, "mariadb_port": database_port,
            "first_port": node_ports[0], "last_port": node_ports[-1], "last_gpu": GPUS_PER_NODE - 1,
            "first_job": _first_job(place), "nodes": len(NODES), "cpus": CPUS_PER_NODE, "gpus": GPUS_PER_NODE,
        }  # fmt: skip
        for gpu in range(GPUS_PER_NODE):
            (self.folder / "gpu" / str(gpu)).symlink_to("/dev/null")
        for name, text in {
            "slurm.conf": SLURM_CONF.format(**values),
            "slurmdbd.conf": SLURMDBD_CONF.format(**values),
            "gres.conf": GRES_CONF.format(**values),
            "cgroup.conf": cgroup_conf(_slurm_version()),
            "database.sql": DATABASE_SQL.format(**values),
            "mail": MAIL_PROGRAM.format(**values),
        }.items():
            for part, other in changes.items():
                text = text.replace(part, other)
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(text)
        (self.folder / "mail").chmod(0o700)
        return database_port, slurmctld_port

    def _start_munged(self, outlive: bool, deadline: float) -> None:
        munge = self.folder / "munge"
        key = munge / "key"
        self.run(["mungekey", "--create", f"--keyfile={key}"])
        command = [
            "munged", "--foreground", "--force", "--num-threads=4", f"--key-file={key}",
            f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--seed-file={munge}/seed",
            f"--log-file={self.folder}/log/munged.log",
        ]  # fmt: skip
        self._spawn("munged", command, outlive)
        self._until("munged", deadline, (munge / "socket").exists)

    def _start_database(self, port: int, outlive: bool, deadline: float) -> None:
        data = self.folder / "database"
        # A server that starts deletes all #sql files in its temporary folder: in /tmp also those of its neighbours, who
        # then fail or crash.
        of_its_own = [f"--datadir={data}", f"--tmpdir={self.folder}/run"]
        hasty = ["--debug-no-sync", "--innodb-flush-method=nosync"]  # nothing here must survive a crash
        installing = [
            "mariadb-install-db", "--no-defaults", "--user=root", *of_its_own,
            "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", *hasty,
        ]  # fmt: skip
        self.run(installing)
        command = [
            "mariadbd", "--no-defaults", "--user=root", *of_its_own,
            "--bind-address=127.0.0.1", f"--port={port}",
            f"--socket={self.folder}/run/mariadb.sock", f"--pid-file={self.folder}/run/mariadbd.pid",
            f"--init-file={self.folder}/database.sql", "--innodb-flush-log-at-trx-commit=0", *hasty,
            "--innodb-lock-wait-timeout=900",
        ]  # fmt: skip
        self._spawn("mariadbd", command, outlive)
        self._until("mariadbd", deadline, lambda: _listens(port))

    def _nodes_idle(self) -> bool:
        done = self.run(["sinfo", "-hN", "-p", "batch", "-o", "%T"], check=False)
        return done.stdout.split() == ["idle"] * len(NODES)

    def _spawn(self, name: str, command: list[str], outlive: bool) -> None:
        self._commands[name] = command
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            child = subprocess.Popen(
                command if outlive else ["setpriv", "--pdeathsig", "TERM", *command],
                env=self.environment, cwd=self.folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                # The first daemon keeps the claim when the cluster outlives this process.
                pass_fds=[self._claim.fileno()] if name == "munged" and self._claim else [],
            )  # fmt: skip
        self._children[name] = child
        with contextlib.suppress(FileNotFoundError), (self.folder / "run" / "processes").open("a") as record:
            process = Process.of(child.pid)  # may have ended already: _until notices
            record.write(f"{process.pid} {process.started}\n")

    def _until(self, daemon: str, deadline: float, ready: Callable[[], bool]) -> None:
        """Waits until ``daemon`` is ready; raises ClusterError when any daemon has ended or time is up."""
        while not ready():
            ended = [
                f"{name} ended with {child.poll()}"
                for name, child in self._children.items()
                if child.poll() is not None
            ]
            if ended or time.monotonic() > deadline:
                what = ", ".join(ended) or f"{daemon} is not ready"
                written = [path.name for path in sorted((self.folder / "log").iterdir()) if path.stat().st_size]
                logs = "\n".join(self.log_tail(name, 15) for name in written)
                raise ClusterError(f"no Slurm cluster in {self.folder}: {what}\n{logs}")
            time.sleep(0.05)


def _if_final(state: str) -> str:
    return state if state in FINAL_STATES else ""
