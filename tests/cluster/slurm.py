"""A real Slurm of four nodes on this machine, in a folder of its own: for tests, and for developers by hand.

Debian's and Ubuntu's own packages (scripts/install_slurm.sh), run as root without systemd: munged, mariadbd,
slurmdbd, slurmctld and four slurmd, all with private keys, sockets, ports and state, so that clusters neither
see each other nor a Slurm that is installed on the machine. Nodes claim 16 CPUs and 8 GPUs each that need not
exist: the GPUs are links to /dev/null, which Slurm allocates, counts and numbers in CUDA_VISIBLE_DEVICES.

Only the standard library: scripts/cluster runs this with the system's Python.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NODES = ("node1", "node2", "node3", "node4")
CPUS_PER_NODE = 16
GPUS_PER_NODE = 8

FINAL_STATES = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT".split()
)
PROGRAMS = (
    "munged mungekey mariadbd mariadb-install-db slurmdbd slurmctld slurmd setpriv "
    "sbatch srun sacct sacctmgr scancel scontrol sinfo squeue"
).split()
BOOT_SECONDS = 60.0
# A Unix socket's path holds 107 bytes; mariadbd's and slurmstepd's need up to 40 of them.
LONGEST_FOLDER = 64

# Variables of a surrounding Slurm job or MPI launcher: they would leak into the jobs submitted from here.
FOREIGN_PREFIXES = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "SACCT", "SCANCEL", "SINFO", "PMI", "OMPI_")

SLURM_CONF = """\
ClusterName=bertjobs
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld_port}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits for its old credential to expire: 120 s by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
MpiDefault=none
PropagateResourceLimits=NONE
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd_port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=600
SlurmctldTimeout=60
SlurmdTimeout=300
MessageTimeout=30
ReturnToService=2

GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=node[1-{nodes}] NodeAddr=127.0.0.1 NodeHostname={host} Port=[{first_port}-{last_port}] \
CPUs={cpus} RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=batch Nodes=node[1-{nodes}] Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=1-0 State=UP
PartitionName=urgent Nodes=node[1-{nodes}] PriorityTier=10 PreemptMode=OFF MaxTime=1-0 State=UP
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={slurmdbd_port}
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_accounting
"""

GRES_CONF = "NodeName=node[1-{nodes}] Name=gpu File={folder}/gpu/[0-{last_gpu}]\n"

DATABASE_SQL = """\
CREATE DATABASE slurm_accounting;
CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';
CREATE USER slurm@localhost IDENTIFIED BY '{password}';
GRANT ALL ON slurm_accounting.* TO slurm@'127.0.0.1';
GRANT ALL ON slurm_accounting.* TO slurm@localhost;
"""


class ClusterError(Exception):
    """The cluster did not boot, or a job did not do what was waited for; shows the end of the logs."""


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
    """``environment`` without the variables of a surrounding Slurm job, with /usr/sbin on its PATH."""
    kept = {name: value for name, value in environment.items() if not is_foreign(name)}
    return {**kept, "PATH": _search_path(environment)}


def _search_path(environment: Mapping[str, str]) -> str:
    parts = environment.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*parts, *(extra for extra in ("/usr/sbin", "/sbin") if extra not in parts)])


def _cgroup_conf(version: tuple[int, int]) -> str:
    """cgroup.conf for a Slurm of this (year, month): without systemd only v1 or none at all start."""
    return f"CgroupPlugin={'disabled' if version >= (23, 11) else 'cgroup/v1'}\n"


def _slurm_version() -> tuple[int, int]:
    words = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True).stdout.split()
    year, month = words[-1].split(".")[:2]
    return int(year), int(month)


def _free_ports(count: int) -> list[int]:
    """``count`` consecutive TCP ports that nobody listens on, below the range of outgoing connections."""
    for _ in range(100):
        first = random.randrange(20000, 32000 - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return list(range(first, first + count))
    raise ClusterError("found no free TCP ports between 20000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Process:
    """A process by its id and start time in clock ticks since boot: the pair is never used twice."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The running process of this id; raises FileNotFoundError when there is none."""
        # proc(5): the start time is field 22; the second field, the name, may itself hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z":
            raise FileNotFoundError(f"process {pid} has ended")
        return cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether it still runs: a zombie does not."""
        try:
            return Process.of(self.pid) == self
        except (FileNotFoundError, ProcessLookupError):
            return False

    def send(self, number: signal.Signals) -> None:
        """Signals it, if it is still there."""
        if self.alive():
            os.kill(self.pid, number)


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
        self._children: list[subprocess.Popen[bytes]] = []

    @classmethod
    def boot(cls, folder: Path, *, outlive: bool = False) -> Cluster:
        """Starts all daemons with files only under ``folder``, and waits until the four nodes are idle.

        The daemons end with ``stop``, at this interpreter's exit, or when the calling thread is killed,
        unless they shall ``outlive`` it. Raises ClusterError with the logs' ends when it cannot boot.
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
            cluster._start(outlive)
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
        timeout: float = 60,
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

    def clear(self, timeout: float = 30) -> None:
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

    def squeue_state(self, job_id: int | str) -> str:
        """The job's state in the queue, one word such as "RUNNING"; "" when it is not queued any more."""
        return self.run(["squeue", "-ho", "%T", "-j", str(job_id)], check=False).stdout.strip()

    def wait(self, job_id: int | str, timeout: float = 60) -> str:
        """Waits until the job has ended and accounting knows how: its final state, such as "COMPLETED".

        A job that was requeued has not ended. Raises ClusterError after ``timeout`` seconds.
        """
        return self._wait_for(
            job_id, timeout, "a final state",
            lambda: "" if self.squeue_state(job_id) else _if_final(self.sacct_state(job_id)),
        )  # fmt: skip

    def wait_queue(self, job_id: int | str, state: str, timeout: float = 60) -> None:
        """Waits until squeue shows the job in ``state``; raises ClusterError after ``timeout`` seconds."""
        self._wait_for(job_id, timeout, state, lambda: state if self.squeue_state(job_id) == state else "")

    def _wait_for(self, job_id: int | str, timeout: float, what: str, seen: Callable[[], str]) -> str:
        deadline = time.monotonic() + timeout
        while not (found := seen()):
            if time.monotonic() > deadline:
                job = self.run(["scontrol", "show", "job", str(job_id)], check=False)
                raise ClusterError(
                    f"job {job_id} did not reach {what} within {timeout:g} s: squeue says "
                    f"{self.squeue_state(job_id)!r}, sacct {self.sacct_state(job_id)!r}\n"
                    f"{job.stdout}{job.stderr}\n{self.log_tail('slurmctld.log')}"
                )
            time.sleep(0.2)
        return found

    def log_tail(self, name: str, lines: int = 30) -> str:
        """The last lines of a file in the log folder, such as "slurmctld.log", under its path."""
        path = self.folder / "log" / name
        text = path.read_text(errors="replace") if path.exists() else "(no log)"
        return "\n".join([f"--- {path}", *text.splitlines()[-lines:]])

    def stop(self) -> None:
        """Kills all daemons, job steps and tasks at once; the folder with its logs stays."""
        for process in self._recorded():
            process.send(signal.SIGKILL)
        for child in self._children:
            child.wait()
        deadline = time.monotonic() + 5
        # Again until none is left: a task may fork, or a slurmstepd start one, while we look.
        while (steps := list(_job_processes(self.folder))) and time.monotonic() < deadline:
            for process in steps:
                process.send(signal.SIGKILL)
            time.sleep(0.05)

    def _recorded(self) -> list[Process]:
        path = self.folder / "run" / "processes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Process(*map(int, line.split())) for line in lines]

    def _start(self, outlive: bool) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        for name in ("run", "log", "munge", "state", "spool", "gpu", "database"):
            (self.folder / name).mkdir(mode=0o700, parents=True)
        database_port = self._write_configuration()
        self._start_munged(outlive, deadline)
        self._start_database(database_port, outlive, deadline)
        self._spawn("slurmdbd", ["slurmdbd", "-D"], outlive)
        self._until("slurmdbd", deadline, lambda: self._answers(["sacctmgr", "-i", "add", "cluster", "bertjobs"]))
        self._spawn("slurmctld", ["slurmctld", "-D"], outlive)
        for node in NODES:
            self._spawn(f"slurmd-{node}", ["slurmd", "-D", "-N", node], outlive)
        self._until("slurmctld", deadline, self._nodes_idle)

    def _write_configuration(self) -> int:
        """Writes all configuration files; returns the database's port."""
        database_port, slurmdbd_port, slurmctld_port, *node_ports = _free_ports(3 + len(NODES))
        password = secrets.token_hex(16)
        values = {
            "folder": self.folder, "host": socket.gethostname().split(".")[0], "password": password,
            "slurmctld_port": slurmctld_port, "slurmdbd_port": slurmdbd_port, "mariadb_port": database_port,
            "first_port": node_ports[0], "last_port": node_ports[-1], "last_gpu": GPUS_PER_NODE - 1,
            "nodes": len(NODES), "cpus": CPUS_PER_NODE, "gpus": GPUS_PER_NODE,
        }  # fmt: skip
        for gpu in range(GPUS_PER_NODE):
            (self.folder / "gpu" / str(gpu)).symlink_to("/dev/null")
        for name, text in {
            "slurm.conf": SLURM_CONF.format(**values),
            "slurmdbd.conf": SLURMDBD_CONF.format(**values),
            "gres.conf": GRES_CONF.format(**values),
            "cgroup.conf": _cgroup_conf(_slurm_version()),
            "database.sql": DATABASE_SQL.format(**values),
        }.items():
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(text)
        return database_port

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
        self.run([
            "mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
            "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
        ])  # fmt: skip
        command = [
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}",
            "--bind-address=127.0.0.1", f"--port={port}",
            f"--socket={self.folder}/run/mariadb.sock", f"--pid-file={self.folder}/run/mariadbd.pid",
            f"--init-file={self.folder}/database.sql", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-lock-wait-timeout=900",
        ]  # fmt: skip
        self._spawn("mariadbd", command, outlive)
        self._until("mariadbd", deadline, lambda: not _is_free(port))

    def _nodes_idle(self) -> bool:
        done = self.run(["sinfo", "-hN", "-p", "batch", "-o", "%T"], check=False)
        return done.stdout.split() == ["idle"] * len(NODES)

    def _answers(self, command: Sequence[str]) -> bool:
        return self.run(command, check=False).returncode == 0

    def _spawn(self, name: str, command: list[str], outlive: bool) -> None:
        with (self.folder / "log" / f"{name}.out").open("wb") as output:
            child = subprocess.Popen(
                command if outlive else ["setpriv", "--pdeathsig", "TERM", *command],
                env=self.environment, cwd=self.folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._children.append(child)
        process = Process.of(child.pid)
        with (self.folder / "run" / "processes").open("a") as record:
            record.write(f"{process.pid} {process.started}\n")

    def _until(self, daemon: str, deadline: float, ready: Callable[[], bool]) -> None:
        """Waits until ``daemon`` is ready; raises ClusterError when any daemon has ended or time is up."""
        while not ready():
            ended = [child for child in self._children if child.poll() is not None]
            if ended or time.monotonic() > deadline:
                what = f"{ended[0].args} ended with {ended[0].returncode}" if ended else f"{daemon} is not ready"
                written = [path.name for path in sorted((self.folder / "log").iterdir()) if path.stat().st_size]
                logs = "\n".join(self.log_tail(name, 15) for name in written)
                raise ClusterError(f"no Slurm cluster in {self.folder}: {what}\n{logs}")
            time.sleep(0.05)


def _if_final(state: str) -> str:
    return state if state in FINAL_STATES else ""


def _job_processes(folder: Path) -> Iterator[Process]:
    """The slurmstepd of this cluster and the processes that they started, wherever these were reparented."""
    conf = f"SLURM_CONF={folder}/slurm.conf".encode()
    for entry in Path("/proc").glob("[1-9]*"):
        try:
            # A slurmstepd overwrites its environment with its title, but stays where slurmd was started.
            if (entry / "comm").read_text() == "slurmstepd\n":
                ours = (entry / "cwd").readlink() == folder
            else:
                environment = (entry / "environ").read_bytes().split(b"\0")
                ours = conf in environment and any(v.startswith(b"SLURM_JOB_ID=") for v in environment)
            if ours and int(entry.name) != os.getpid():
                yield Process.of(int(entry.name))
        except OSError:  # it has ended, or is a guarded process of the system
            continue
