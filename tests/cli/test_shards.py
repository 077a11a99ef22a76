"""`bertjobs data inspect`, `verify` and `adopt` as a person types them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs.cli.data_check import add_verbs
from bertjobs.cli.main import Parser
from bertjobs.data.corpus import documents
from bertjobs.data.prepare import PHASES, PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.normalisation import Normalisation
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.vocabulary_training import train_vocabulary
from bertjobs.errors import InputError
from tests.data.conftest import quiet
from tests.data.hdf5_files import write_instances

TEXT = "the people of this country want peace and commerce with all nations and a government of laws"
WORDS = TEXT.split()


def run(*words: object) -> int:
    parser = Parser(prog="bertjobs")
    add_verbs(parser.add_subparsers())
    args = parser.parse_args([str(word) for word in words])
    return args.handler(args)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data folders of both formats, by format."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(12):
        sentences = [" ".join([f"n{number}", *WORDS[place % 9 :], *WORDS]) for place in range(60)]
        (folder / f"{number}.txt").write_text(". ".join(sentences) + ".", encoding="utf-8")
    corpus = f"text:{folder}"
    assert len(list(documents(corpus))) == 12
    train_vocabulary([corpus], 200, True, folder / "vocab.txt.vocabulary")
    for shard_format in ("ids", "lddl"):
        options = PrepareOptions((corpus,), str(folder / "vocab.txt.vocabulary"), str(folder / shard_format),
                                 (PHASES[1],), shards=3, masking="static", format=shard_format)  # fmt: skip
        prepare(options, quiet)
    return {shard_format: folder / shard_format for shard_format in ("ids", "lddl")}


def test_inspect_shows_counts_lengths_and_samples(made: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", made["ids"], "--samples", 2)
    printed = capsys.readouterr().out
    data = DataManifest.read(made["ids"])
    for words in (
        f"{made['ids']}: token ids (ids)",
        f"sha256 {data.vocabulary_sha256[:12]}...",
        "masking static, masked_share 0.15",
        "phases 1:128:20",
        "\nphase 1 train\n",
        "\nphase 1 validation\n",
        f"{data.phase(1).train.rows:,}",
        "of the tokens, stored; of these 8",
        "→[MASK]]",
        "\n    A  ",
        "\n    B  ",
        "█" * 40,
        f"next: bertjobs data verify {made['ids']}",
    ):
        assert words in printed
    assert printed.count(" masked, follows") + printed.count(" masked, random next") == 2


def test_inspect_draws_and_prints_json(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "lengths.png"
    code = run("inspect", made["lddl"], "--phase", 1, "--split", "train", "--json", "--histogram", picture)
    content = json.loads(capsys.readouterr().out)
    part = content["parts"]["phase 1 train"]
    assert list(content["parts"]) == ["phase 1 train"]
    assert part["total"]["rows"] == DataManifest.read(made["lddl"]).phase(1).train.rows
    assert sum(part["total"]["lengths"].values()) == part["total"]["rows"]
    assert len(part["samples"]) == 3
    assert code == (64 if part["wrong"] else 0)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_inspect_of_one_shard_and_of_a_damaged_one(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made["lddl"] / "phase1" / "train" / "shard-1.parquet_1"
    run("inspect", path)
    assert "phase 1 train, shard-1.parquet_1" in capsys.readouterr().out
    cut = tmp_path / path.name
    cut.write_bytes(path.read_bytes()[:-9])
    assert run("inspect", cut, "--vocab", made["lddl"] / "vocab.txt") == 64
    printed = capsys.readouterr().out
    assert f"WRONG  {path.name}: cannot be read" in printed
    assert "wrong: 1 problem, see above" in printed


def test_bad_paths_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    for words, says in (
        (["inspect", tmp_path / "nowhere"], "does not exist"),
        (["inspect", made["lddl"] / "phase1" / "train"], "is not a data folder, but holds Parquet files"),
        (["inspect", made["ids"], "--phase", 7], "has no phase 7"),
        (["inspect", made["ids"], "--samples", -1], "too small"),
        (["inspect", made["ids"], "--histogram", tmp_path / "no" / "x.png"], "cannot write"),
        (["verify", tmp_path], "empty"),
        (["verify", made["ids"], "--processes", -1], "too small"),
        (["adopt", "--phase", "x", "--vocab", "v", "--output", "o"], "is not a phase and its value"),
        (["adopt", "--phase", "1=a", "--phase", "1=b", "--vocab", "v", "--output", "o"], "twice"),
        (["adopt", "--phase", "1=a", "--sequence-length", "1=x", "--vocab", "v", "--output", "o"], "number of tokens"),
    ):
        with pytest.raises(InputError, match=says):
            run(*words)


def test_verify_names_each_bad_file(made: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", made["ids"]) == 0
    printed = capsys.readouterr()
    assert "all files match the manifest" in printed.out
    assert "MB/s" in printed.err
    stray = made["ids"] / "stray"
    stray.write_text("")
    assert run("verify", made["ids"], "--processes", 1) == 64
    assert "stray: expected no such file, found not in MANIFEST.json" in capsys.readouterr().out
    stray.unlink()


def test_verify_says_where_a_manifest_has_no_hash_of_itself(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(made["ids"], tmp_path / "older"))
    content = json.loads((folder / "MANIFEST.json").read_text())
    assert run("verify", folder) == 0
    assert "hash of itself" not in capsys.readouterr().out
    newer = ("sources", "duplicates", "limits", "unread_files", "files", "sha256_of_above")
    older = {name: value for name, value in content.items() if name not in newer}
    (folder / "tokenizer_config.json").unlink()
    (folder / "MANIFEST.json").write_text(json.dumps(older, indent=2) + "\n")
    assert run("verify", folder) == 0
    assert "without a hash of itself" in capsys.readouterr().out
    assert run("verify", "--json", folder) == 0
    assert json.loads(capsys.readouterr().out)["manifest_has_hash"] is False
    content["documents"]["train"] += 1
    (folder / "MANIFEST.json").write_text(json.dumps(content, indent=2) + "\n")
    with pytest.raises(InputError, match="it was changed"):
        run("verify", folder)


def test_adopt_then_verify(made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = made["lddl"] / "phase1" / "train", tmp_path / "my data"
    vocabulary = made["lddl"] / "vocab.txt"
    assert run("adopt", "--phase", f"1={source}", "--vocab", vocabulary, "--output", output) == 0
    printed = capsys.readouterr().out
    data = DataManifest.read(output)
    assert f"{data.phase(1).validation.rows:,} sequences" in printed
    assert "held-out numbers are optimistic" in printed
    assert f"next: bertjobs data inspect '{output}'" in printed
    assert (
        data.phase(1).train.rows + data.phase(1).validation.rows == DataManifest.read(made["lddl"]).phase(1).train.rows
    )
    assert run("verify", output) == 0


def test_adopt_says_what_it_guessed_of_the_vocabulary(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "lone.txt"
    lone.write_bytes((made["lddl"] / "vocab.txt").read_bytes())
    words = ("adopt", "--phase", f"1={made['lddl'] / 'phase1' / 'train'}", "--vocab", lone, "--output")
    assert run(*words, tmp_path / "a") == 0
    assert "note: guessed: lone.txt is uncased (0 of " in capsys.readouterr().out
    assert run(*words, tmp_path / "b", "--uncased", "--strip-accents", "no") == 0
    assert "guessed" not in capsys.readouterr().out
    assert Vocabulary.of_folder(tmp_path / "b").normalisation == Normalisation(True, False)


def test_adopt_hdf5_then_verify(made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = made["lddl"] / "vocab.txt"
    for number in range(2):
        write_instances(tmp_path / "in" / f"{number}.hdf5", Vocabulary.read(vocabulary), 30, seed=number)
    needed = ("--vocab", vocabulary, "--output", tmp_path / "out")
    with pytest.raises(InputError, match="holds HDF5 files, not LDDL's Parquet files"):
        run("adopt", tmp_path / "in", *needed)
    assert run("adopt", "--from", "hdf5", tmp_path / "in", *needed) == 0
    printed = capsys.readouterr().out
    assert "30 sequences" in printed
    assert "held out: 1.hdf5" in printed
    assert f"next: bertjobs submit --recipe NAME --data {tmp_path / 'out'} --set masking=static" in printed
    assert run("verify", tmp_path / "out") == 0
    assert run("inspect", tmp_path / "out") == 0
    capsys.readouterr()
    needed = ("--vocab", vocabulary, "--output", tmp_path / "again")
    assert run("adopt", "--from", "hdf5", "--phase", f"2={tmp_path / 'in'}", *needed, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["masking"] == "static"
    assert content["held_out_files"] == [str(tmp_path / "in" / "1.hdf5")]
    assert [phase["phase"] for phase in content["phases"]] == [2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no folder is given"),
        (("in", "--phase", "1=in"), "the folder is given twice"),
        (("--from", "hdf5", "in", "--link", "copy"), "--link is for LDDL's files"),
        (("--from", "hdf5", "in", "--sequence-length", "1=128"), "--sequence-length is for LDDL's files"),
    ],
)
def test_adopt_with_words_that_do_not_fit(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run("adopt", *words, "--vocab", "v", "--output", "o")


def test_the_verbs_import_nothing_heavy() -> None:
    heavy = {"numpy", "pyarrow", "torch", "matplotlib", "tokenizers"}
    code = f"import sys, bertjobs.cli.data_check; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
