"""data/squad.sh, data/glue.sh and data/msmarco.sh: public tasks, downloaded, checked and unpacked.

The tests run a copy of the scripts beside a table of small files under the real names: nobody has files with the real
checksums here.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.data.website import Site

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "data" / "task_files.txt"
GLUE = ("CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI", "QNLI", "RTE", "WNLI")
SCRIPTS = ("squad.sh", "glue.sh", "msmarco.sh")


@dataclass(frozen=True)
class Row:
    """A row of the table of files."""

    set: str
    part: str
    path: str
    bytes: str
    unpacked: str
    sum: str
    files: str

    @property
    def archive(self) -> bool:
        return self.path.endswith((".zip", ".tar.gz"))


ROWS = [Row(*line.split()) for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]


def text_of(name: str) -> bytes:
    """What a file of this name holds in these tests: enough to be cut in the middle."""
    return f"this is {name}\n".encode() * 200


def packed(row: Row) -> bytes:
    """The download of a row: its file, or an archive of its files, among others."""
    names = row.files.split(",")
    buffer = io.BytesIO()
    if row.path.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in (*names, "__MACOSX/._train.tsv", f"{row.part}/original/LICENSE"):
                archive.writestr(name, text_of(name))
    elif row.archive:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(text_of(name))
                archive.addfile(member, io.BytesIO(text_of(name)))
    else:
        return text_of(names[0])
    return buffer.getvalue()


@dataclass(frozen=True)
class Copy:
    """The scripts in a folder of their own, with a table that the site's files fulfil."""

    folder: Path
    site: Site

    def write_table(self, **changes: str) -> None:
        """The real table, with the sizes and checksums of the site's files; ``changes`` are made to all rows."""
        lines = []
        for row in ROWS:
            body = self.site.files[f"/{row.path}"]
            algorithm = row.sum.partition(":")[0]
            sized = replace(row, bytes=str(len(body)), sum=f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}")
            if row.unpacked != "-":
                sized = replace(sized, unpacked=str(3 * len(body)))
            lines.append(" ".join(vars(replace(sized, **changes)).values()) + "\n")
        (self.folder / "task_files.txt").write_text("# a comment\n\n" + "".join(lines))

    def run(self, script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """A finished script, which finds the site by its environment."""
        environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environ |= {f"{name}_MIRROR": self.site.url for name in ("SQUAD", "GLUE", "MSMARCO")}
        command = [str(self.folder / script), *map(str, arguments)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**environ, "no_proxy": "*", **environment},
            cwd=self.folder.parent,
            timeout=300,
        )


@pytest.fixture
def copy(site: Site, tmp_path: Path) -> Copy:
    folder = tmp_path / "the scripts"
    folder.mkdir()
    for script in (ROOT / "data").glob("*.sh"):
        shutil.copy(script, folder)
    site.files = {f"/{row.path}": packed(row) for row in ROWS}
    copy = Copy(folder, site)
    copy.write_table()
    return copy


# ---------------------------------------------------------------- what arrives where


def files_in(folder: Path) -> set[str]:
    """The files of a folder but those that the scripts keep for themselves."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if name != "SHA256SUMS" and not name.startswith("downloads/")}


def expected(*parts: str) -> set[str]:
    return {name for row in ROWS if row.part in parts for name in row.files.split(",")}


@pytest.mark.parametrize(
    ("script", "arguments", "parts"),
    [
        ("squad.sh", [], ("1.1", "2.0")),
        ("squad.sh", ["--version", "both"], ("1.1", "2.0")),
        ("squad.sh", ["--version", "1.1"], ("1.1",)),
        ("squad.sh", ["--version", "2.0"], ("2.0",)),
        ("glue.sh", [], GLUE),
        ("glue.sh", ["mrpc", "sst2", "stsb", "MNLI", "mrpc"], ("MRPC", "SST-2", "STS-B", "MNLI")),
        ("msmarco.sh", [], ("triples", "top1000", "qrels")),
        ("msmarco.sh", ["--what", "queries,collection"], ("queries", "collection")),
        ("msmarco.sh", ["--what", "all"], ("triples", "top1000", "qrels", "queries", "collection", "idtriples")),
    ],
)
def test_what_is_asked_for_arrives_under_the_names_that_readers_know(
    copy: Copy, tmp_path: Path, script: str, arguments: list[str], parts: tuple[str, ...]
) -> None:
    folder = tmp_path / "my data"
    done = copy.run(script, *arguments, f"{folder}/")
    assert done.returncode == 0, done.stderr
    assert files_in(folder) == expected(*parts)
    for name in files_in(folder):
        assert (folder / name).read_bytes() == text_of(name)
    assert len(copy.site.asked) == sum(row.part in parts for row in ROWS), "each file once"
    assert list(folder.rglob("*.part")) == list(folder.rglob("*.unpacked")) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_folder_has_the_data_sets_name_if_none_is_given(copy: Copy, tmp_path: Path, script: str) -> None:
    done = copy.run(script)
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / script.removesuffix(".sh"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_second_run_downloads_and_unpacks_nothing(copy: Copy, script: str) -> None:
    assert copy.run(script).returncode == 0
    copy.site.asked.clear()
    again = copy.run(script)
    assert again.returncode == 0, again.stderr
    assert copy.site.asked == []
    assert "is complete" in again.stdout
    assert "unpacking" not in again.stdout
    assert "to download" not in again.stdout


def test_a_mirror_on_the_command_line_wins(copy: Copy, tmp_path: Path) -> None:
    copy.site.files = {f"/own{path}": body for path, body in copy.site.files.items()}
    done = copy.run("glue.sh", "--mirror", f"{copy.site.url}/own/", "WNLI", GLUE_MIRROR="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert copy.site.asked == [("/own/glue/data/WNLI.zip", 0)]
    assert files_in(tmp_path / "glue") == expected("WNLI")


def test_ms_marcos_site_is_told_the_version_that_the_client_speaks(copy: Copy) -> None:
    assert copy.run("msmarco.sh", "--what", "qrels").returncode == 0
    assert [headers["X-Ms-Version"] for headers in copy.site.headers] == ["2019-12-12"]


# ---------------------------------------------------------------- interrupted, wrong, too large


@pytest.mark.parametrize(("script", "arguments"), [("squad.sh", ["--version", "1.1"]), ("glue.sh", ["RTE"])])
def test_an_interrupted_download_resumes_at_its_byte(
    copy: Copy, tmp_path: Path, script: str, arguments: list[str]
) -> None:
    copy.site.hangs_up_after = 100
    cut = copy.run(script, *arguments)
    assert cut.returncode == 64
    assert "run this again: it resumes at byte 100" in cut.stderr
    assert files_in(tmp_path / script.removesuffix(".sh")) <= {"train-v1.1.json.part"}, "nothing half is in its place"
    (path, _) = copy.site.asked[-1]
    copy.site.hangs_up_after = None
    copy.site.asked.clear()
    again = copy.run(script, *arguments)
    assert again.returncode == 0, again.stderr
    assert copy.site.asked[0] == (path, 100)
    assert files_in(tmp_path / script.removesuffix(".sh")) == expected("1.1" if script == "squad.sh" else "RTE")


def test_a_wrong_checksum_is_refused_kept_aside_and_the_next_run_starts_over(copy: Copy, tmp_path: Path) -> None:
    path = "/glue/data/CoLA.zip"
    right = copy.site.files[path]
    copy.site.files[path] = right[:-1] + b"?"
    done = copy.run("glue.sh", "CoLA")
    assert done.returncode == 64
    assert "glue/downloads/CoLA.zip.bad is not what" in done.stderr
    assert "its sha256 is not" in done.stderr
    assert files_in(tmp_path / "glue") == set()
    assert (tmp_path / "glue/downloads/CoLA.zip.bad").read_bytes() == copy.site.files[path]
    copy.site.files[path] = right
    copy.site.asked.clear()
    assert copy.run("glue.sh", "CoLA").returncode == 0
    assert copy.site.asked == [(path, 0)]


def test_a_checksum_is_compared_by_the_algorithm_that_the_table_names(copy: Copy) -> None:
    copy.site.files["/qrels.dev.small.tsv"] += b"?"
    done = copy.run("msmarco.sh", "--what", "qrels")
    assert done.returncode == 64
    assert "its md5 is not" in done.stderr


def test_sizes_are_named_first_and_a_full_disk_is_an_error_before_any_download(copy: Copy, tmp_path: Path) -> None:
    copy.write_table(bytes="7930881353", unpacked=str(10**18))
    done = copy.run("msmarco.sh", "--what", "triples")
    assert done.returncode == 64
    assert re.search(r"triples.train.small.tar.gz +7.9 GB, 1000000.0 TB unpacked", done.stdout)
    assert "7.9 GB to download" in done.stdout
    assert "1000000.0 TB are needed in msmarco" in done.stderr
    assert copy.site.asked == []
    copy.write_table(unpacked="2000000")
    part = tmp_path / "msmarco/downloads/triples.train.small.tar.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(copy.site.files["/triples.train.small.tar.gz"][:90])
    done = copy.run("msmarco.sh", "--what", "triples")
    assert done.returncode == 0, done.stderr
    rest = len(copy.site.files["/triples.train.small.tar.gz"]) - 90
    assert f"{rest} bytes to download" in done.stdout, "what is here already is not counted"


def test_an_archive_without_what_the_readers_need_is_an_error(copy: Copy, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.part == "RTE")
    copy.site.files[f"/{row.path}"] = packed(replace(row, files="RTE/train.tsv,RTE/dev.tsv"))
    copy.write_table()
    done = copy.run("glue.sh", "RTE")
    assert done.returncode == 64
    assert "RTE.zip holds no RTE/test.tsv" in done.stderr
    assert files_in(tmp_path / "glue" / "RTE") == set(), "none of them is in its place"


# ---------------------------------------------------------------- unpacked files


def test_unpacked_files_are_checked_without_their_archive(copy: Copy, tmp_path: Path) -> None:
    assert copy.run("glue.sh", "CoLA", "MRPC").returncode == 0
    folder = tmp_path / "glue"
    shutil.rmtree(folder / "downloads")
    check = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False)
    assert check.returncode == 0
    copy.site.asked.clear()
    for options in ([], ["--offline"]):
        done = copy.run("glue.sh", "CoLA", "MRPC", *options)
        assert done.returncode == 0, done.stderr
    assert copy.site.asked == []
    (folder / "CoLA/dev.tsv").write_text("changed")
    offline = copy.run("glue.sh", "CoLA", "MRPC", "--offline")
    assert offline.returncode == 64
    assert "missing: " in offline.stderr
    assert "CoLA.zip" in offline.stderr
    assert "msr_paraphrase" not in offline.stderr
    done = copy.run("glue.sh", "CoLA", "MRPC")
    assert done.returncode == 0, done.stderr
    assert copy.site.asked == [("/glue/data/CoLA.zip", 0)]
    assert (folder / "CoLA/dev.tsv").read_bytes() == text_of("CoLA/dev.tsv")
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == 3


# ---------------------------------------------------------------- without a network


def test_offline_lists_all_that_is_missing_with_its_address_and_its_place(copy: Copy, tmp_path: Path) -> None:
    done = copy.run("glue.sh", "WNLI", "MRPC", "--offline", "--mirror", "https://example.org/x")
    assert done.returncode == 64
    pairs = re.findall(r"missing: (\S+) \(.*\)\n +belongs at (\S+)", done.stderr)
    assert dict(pairs) == {
        "https://example.org/x/glue/data/WNLI.zip": "glue/downloads/WNLI.zip",
        "https://example.org/x/senteval/senteval_data/msr_paraphrase_train.txt": "glue/MRPC/msr_paraphrase_train.txt",
        "https://example.org/x/senteval/senteval_data/msr_paraphrase_test.txt": "glue/MRPC/msr_paraphrase_test.txt",
        "https://example.org/x/glue/data/mrpc_dev_ids.tsv": "glue/MRPC/dev_ids.tsv",
    }
    assert copy.site.asked == []
    for address, place in pairs:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(copy.site.files[address.removeprefix("https://example.org/x")])
    brought = copy.run("glue.sh", "WNLI", "MRPC", "--offline")
    assert brought.returncode == 0, brought.stderr
    assert files_in(tmp_path / "glue") == expected("WNLI", "MRPC")
    assert copy.site.asked == []


def test_offline_names_what_is_damaged_or_incomplete(copy: Copy, tmp_path: Path) -> None:
    assert copy.run("squad.sh").returncode == 0
    copy.site.asked.clear()
    folder = tmp_path / "squad"
    (folder / "dev-v1.1.json").write_text("{}")
    (folder / "dev-v2.0.json").rename(folder / "dev-v2.0.json.part")
    done = copy.run("squad.sh", "--offline")
    assert done.returncode == 64
    assert f"damaged: {copy.site.url}/dev-v1.1.json" in done.stderr
    assert f"incomplete: {copy.site.url}/dev-v2.0.json" in done.stderr
    assert "train" not in done.stderr
    assert "train-v1.1.json is complete" in done.stdout
    assert copy.site.asked == []


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_explains_itself(script: str) -> None:
    done = subprocess.run([ROOT / "data" / script, "--help"], capture_output=True, text=True, check=True)
    assert f"data/{script} [" in done.stdout
    assert "--offline" in done.stdout
    assert "--vocab" not in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("squad.sh", ["--version"], "--version needs a value"),
        ("squad.sh", ["--version", "1.0"], "1.0 is not a version of SQuAD"),
        ("squad.sh", ["--mirror"], "--mirror needs a value"),
        ("squad.sh", ["--ofline"], "unknown option --ofline"),
        ("squad.sh", ["a", "b"], "two folders are given: a and b"),
        ("squad.sh", [""], "the folder's name is empty"),
        ("squad.sh", ["the scripts/squad.sh"], "the scripts/squad.sh is not a folder"),
        ("glue.sh", ["MRCP"], "MRCP is not a task of GLUE"),
        ("glue.sh", ["--tasks"], "unknown option --tasks"),
        ("glue.sh", ["./a", "CoLA", "./b"], "two folders are given"),
        ("msmarco.sh", ["--what", "tripels"], "tripels is not a part of MS MARCO"),
        ("msmarco.sh", ["--what", ""], "--what is empty"),
        ("msmarco.sh", ["--what"], "--what needs a value"),
    ],
)
def test_what_is_wrong_is_named(copy: Copy, script: str, arguments: list[str], message: str) -> None:
    done = copy.run(script, *arguments)
    assert done.returncode == 64
    assert message in done.stderr
    assert "hint:" in done.stderr
    assert copy.site.asked == []


def test_a_site_without_the_file_is_an_error(copy: Copy) -> None:
    del copy.site.files["/dev-v1.1.json"]
    done = copy.run("squad.sh", "--version", "1.1")
    assert done.returncode == 64
    assert f"cannot download {copy.site.url}/dev-v1.1.json" in done.stderr


# ---------------------------------------------------------------- the table itself


def test_the_table_is_sound() -> None:
    digits = {"md5": 32, "sha256": 64}
    for row in ROWS:
        algorithm, _, digest = row.sum.partition(":")
        assert re.fullmatch(f"[0-9a-f]{{{digits[algorithm]}}}", digest), row
        assert int(row.bytes) > 0
        assert row.unpacked == "-" or int(row.unpacked) >= int(row.bytes)
        assert row.archive or "," not in row.files
    for column in ("path", "files", "sum"):
        values = [(row.set, getattr(row, column)) for row in ROWS]
        assert len(set(values)) == len(values), column
    assert {row.part for row in ROWS if row.set == "glue"} == set(GLUE)
