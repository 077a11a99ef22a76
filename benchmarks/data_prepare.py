"""Times of preparing data: bertjobs, LDDL 0.1.0, and LDDL's algorithm in plain Python. See data.py."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError

ROOT = Path(__file__).resolve().parents[1]
BIN_SIZE = 64
PHASES = {128: 1, 512: 2}
FEW_HELD_OUT = "0.000001"
"""One document is held out at least; LDDL holds out none."""
BLOCKS = 4
"""Parts of the text per process, for LDDL."""
BALANCER_SECONDS = 60
"""LDDL's balancer can hang forever; otherwise it takes a few seconds."""


@dataclass(frozen=True)
class Case:
    """What is prepared."""

    processes: int
    length: int
    duplicates: int
    masking: str

    def __str__(self) -> str:
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        return f"{processes}, {self.length}, duplicates {self.duplicates}, {self.masking}"


CASES = (
    Case(1, 128, 1, "dynamic"),
    Case(1, 128, 5, "static"),
    Case(2, 128, 5, "static"),
    Case(1, 512, 5, "static"),
    Case(2, 512, 5, "static"),
)
FORMATS = ("ids", "lddl")


@dataclass(frozen=True)
class Setting:
    """Where all contenders find their inputs.

    Attributes:
        lddl: LDDL's environment, or None if it is not installed.
        source: folder of the corpus in LDDL's form; ``tiny`` is one of three short documents.
        scratch: folder for outputs.
        cases, formats: what is prepared, and our shards' forms.
        plain: whether LDDL's algorithm in plain Python is timed too where LDDL is installed.
    """

    lddl: Path | None
    vocab: Path
    source: Path
    tiny: Path
    scratch: Path
    cases: tuple[Case, ...] = CASES
    formats: tuple[str, ...] = FORMATS
    plain: bool = True

    @property
    def mpi(self) -> bool:
        """Whether LDDL can run under MPI."""
        built = self.lddl is not None and any(self.lddl.glob("lib/python3.8/site-packages/mpi4py"))
        return built and shutil.which("mpirun") is not None


@dataclass
class Times:
    """Seconds of one command, run after run: on the wall, and of processors over all processes."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall: float, cpu: float) -> None:
        """One more run."""
        self.wall.append(round(wall, 4))
        self.cpu.append(round(cpu, 4))


Command = Callable[[Setting, Case, Path, Path], list[str]]


def measure_prepare(setting: Setting, repeats: int) -> list[dict[str, Any]]:
    """One entry per case, with the times of every contender; they take turns, ``repeats`` times."""
    contenders: dict[str, Command] = {name: ours(name) for name in setting.formats}
    if setting.plain or not setting.lddl:
        contenders["baseline"] = baseline_command
    if setting.lddl:
        contenders["LDDL"] = lddl_command
    megabytes = sum(path.stat().st_size for path in setting.source.rglob("*.txt")) / 1e6
    entries = []
    for case in setting.cases:
        whole, start_up = ({name: Times() for name in contenders} for _ in range(2))
        rows, balancer = {}, Times()
        for command in contenders.values():  # so that the first run does not read its programs from disk
            timed(command(setting, case, setting.tiny, setting.scratch / "prepared"), setting)
            shutil.rmtree(setting.scratch / "prepared")
        for turn, (name, command) in itertools.product(range(repeats), contenders.items()):
            output = setting.scratch / "prepared"
            start_up[name].add(*timed(command(setting, case, setting.tiny, output), setting))
            shutil.rmtree(output)
            whole[name].add(*timed(command(setting, case, setting.source, output), setting))
            rows[name] = rows_in(output, case)
            if name == "LDDL" and setting.mpi and not turn:
                _balance(setting, case, output, balancer)
            shutil.rmtree(output)
        results = {name: summarise(whole[name], start_up[name], megabytes, rows[name]) for name in contenders}
        entries.append({"case": str(case), **asdict(case), "contenders": results, "lddl_balancer": asdict(balancer)})
        shown = "; ".join(f"{name} {each['megabytes_a_second']['steady_best']} MB/s" for name, each in results.items())
        print(f"prepare, {case}: {shown}", file=sys.stderr, flush=True)
    return entries


def summarise(whole: Times, start_up: Times, megabytes: float, rows: int) -> dict[str, Any]:
    """Times and rates; "steady" leaves the start-up out."""
    seconds: dict[str, float] = {}
    for name, choose in (("best", min), ("median", statistics.median)):
        total, begin = choose(whole.wall), choose(start_up.wall)
        seconds |= {f"whole_{name}": total, f"steady_{name}": max(total - begin, 1e-3)}
    # Processor time suffers less from other load on the machine.
    seconds["steady_cpu_best"] = max(min(whole.cpu) - min(start_up.cpu), 1e-3)
    return {
        "sequences": rows,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "megabytes_a_second": {name: round(megabytes / value, 3) for name, value in seconds.items()},
        "sequences_a_second": {name: round(rows / value) for name, value in seconds.items()},
        "runs": asdict(whole),
        "start_ups": asdict(start_up),
    }


def timed(command: list[str], setting: Setting, timeout: float | None = None) -> tuple[float, float]:
    """Wall and processor seconds of a command.

    Raises:
        BertjobsError: it failed; shows the end of its output.
        TimeoutError: it was killed.
    """
    log = setting.scratch / "command.log"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(setting, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{timeout} seconds were not enough") from error
        finally:
            if process.poll() is None:
                _stop(process)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise BertjobsError(f"exit code {process.returncode}:\n{end}", where=" ".join(command))
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)  # mpirun ends its ranks, which are in groups of their own
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def environment(setting: Setting, environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, with what LDDL needs: Punkt's data, and no network to wait for.

    Programs keep their bytecode, as they do where nobody has turned that off: LDDL's was written when it was installed,
    ours is by the first run.
    """
    environ = {name: value for name, value in environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    if setting.lddl:
        nowhere = "http://127.0.0.1:9"
        own |= {"NLTK_DATA": str(setting.lddl / "nltk_data"), "http_proxy": nowhere, "https_proxy": nowhere}
    return {**environ, **own}


def rows_in(output: Path, case: Case) -> int:
    """Sequences in a prepared folder, whoever made it."""
    from pyarrow import parquet

    from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest

    if (output / MANIFEST_NAME).exists():
        return DataManifest.read(output).phase(PHASES[case.length]).train.rows
    return sum(parquet.read_metadata(path).num_rows for path in output.glob("part.*.parquet*"))


def ours(shard_format: str) -> Command:
    """What makes the command of `bertjobs data prepare`."""

    def command(setting: Setting, case: Case, source: Path, output: Path) -> list[str]:
        options: dict[str, object] = {
            "corpus": f"lddl:{source}",
            "vocab": setting.vocab,
            "output": output,
            "phases": PHASES[case.length],
            "duplicates": case.duplicates,
            "masking": case.masking,
            "bin-size": BIN_SIZE,
            "held-out": FEW_HELD_OUT,
            "processes": case.processes,
            "format": shard_format,
        }
        return [sys.executable, "-m", "bertjobs", "data", "prepare", *_flags(options)]

    return command


def lddl_command(setting: Setting, case: Case, source: Path, output: Path) -> list[str]:
    """LDDL's preprocessor as its documentation starts it, under MPI where that is installed."""
    assert setting.lddl is not None
    options: dict[str, object] = {
        "schedule": "mpi" if setting.mpi else "local",
        "local-n-workers": case.processes,
        "common-crawl": source,
        "sink": output,
        "target-seq-length": case.length,
        "duplicate-factor": case.duplicates,
        "bin-size": BIN_SIZE,
        "num-blocks": BLOCKS * case.processes,
        "sample-ratio": 1.0,
        "vocab-file": setting.vocab,
    }
    tool = [str(setting.lddl / "bin/preprocess_bert_pretrain"), *_flags(options), *_static(case)]
    # Under MPI Dask's scheduler and its client take a process each.
    return [*_mpirun(case.processes + 2), *tool] if setting.mpi else tool


def baseline_command(setting: Setting, case: Case, source: Path, output: Path) -> list[str]:
    """LDDL's algorithm in plain Python."""
    options: dict[str, object] = {
        "source": source,
        "vocab": setting.vocab,
        "output": output,
        "length": case.length,
        "duplicates": case.duplicates,
        "bin-size": BIN_SIZE,
        "blocks": BLOCKS * case.processes,
        "processes": case.processes,
    }
    return [sys.executable, str(ROOT / "benchmarks/lddl/baseline.py"), *_flags(options), *_static(case)]


def _balance(setting: Setting, case: Case, folder: Path, times: Times) -> None:
    tool = str(setting.lddl) + "/bin/balance_dask_output"
    command = [*_mpirun(case.processes), tool, "--indir", str(folder), "--num-shards", str(BLOCKS)]
    try:
        times.add(*timed(command, setting, BALANCER_SECONDS))
    except TimeoutError:
        print(f"LDDL's balancer was killed after {BALANCER_SECONDS} s", file=sys.stderr)


def _mpirun(processes: int) -> list[str]:
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(processes)]


def _flags(options: Mapping[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _static(case: Case) -> list[str]:
    return ["--masking"] if case.masking == "static" else []
