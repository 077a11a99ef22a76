"""`bertjobs data` as a person types it."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from bertjobs.cli.data import register
from bertjobs.cli.data_prepare import array_options, given_words
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.normalisation import Normalisation
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError
from bertjobs.files.arrays import map_arrays
from bertjobs.slurm.container import Container, submitting_code
from tests.data.text.scripts import TEXTS


def _parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    return parser.parse_args(["data", *map(str, words)])


def _run(*words: object) -> int:
    args = _parse(*words)
    return args.handler(args)


def test_vocab_then_prepare(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocab, output = tmp_path / "my vocab" / "vocab.txt", tmp_path / "data"
    source = f"text:{corpus}"
    assert _run("vocab", "--corpus", source, "--size", 400, "--output", vocab) == 0
    printed = capsys.readouterr().out
    assert f"--vocab '{vocab}'" in printed
    assert _run("prepare", "--corpus", source, "--vocab", vocab, "--output", output, "--phases", "1") == 0
    printed = capsys.readouterr()
    data = DataManifest.read(output)
    assert f"{data.phase(1).train.rows:,} sequences" in printed.out
    assert f"{data.documents['train']} documents for training" in printed.out
    assert f"next: bertjobs submit --recipe NAME --data {output}" in printed.out
    assert "MB/s" in printed.err


@pytest.mark.parametrize("weight", ["", "@0.2"])
def test_validation_data_of_far_more_than_its_share_is_said(
    corpus: Path, vocabulary_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], weight: str
) -> None:
    (tmp_path / "few").mkdir()
    for number in range(2):
        (tmp_path / "few" / f"{number}.txt").symlink_to(corpus / f"speech-{number:02}.txt")
    words = ("prepare", "--vocab", vocabulary_path, "--phases", "1", "--processes", 1)
    assert _run(*words, "--corpus", f"text:{corpus}{weight}", "--output", tmp_path / "many") == 0
    assert "are for validation" not in capsys.readouterr().out
    assert _run(*words, "--corpus", f"text:{tmp_path / 'few'}", "--output", tmp_path / "data") == 0
    printed = capsys.readouterr().out
    data = DataManifest.read(tmp_path / "data").phase(1)
    share = data.validation.rows / (data.train.rows / 5 + data.validation.rows)
    assert f"note: {share:.0%} of the sequences are for validation, not 5.0%: documents are held out whole" in printed
    assert "another --seed" in printed


@pytest.mark.parametrize(
    ("words", "sets"),
    [
        (("--masking", "static"), "--set masking=static"),
        (("--masking", "static", "--masked-units", "words"), "--set masking=static --set masked_units=words"),
        (("--masked-units", "words", "--masked-share", 0.2), "--set masked_share=0.2 --set masked_units=words"),
    ],
)
def test_the_run_to_type_next_masks_as_the_data_is_made_for(
    corpus: Path, vocabulary_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple, sets: str
) -> None:
    output = tmp_path / "data"
    given = ("--corpus", f"text:{corpus}", "--vocab", vocabulary_path, "--phases", "1", "--processes", 1)
    assert _run("prepare", *given, "--output", output, *words) == 0
    command = capsys.readouterr().out.partition("next: ")[2].strip()
    assert command == f"bertjobs submit --recipe NAME --data {output} {sets}"


def test_names_that_no_terminal_should_get_are_written_as_escapes(
    corpus: Path, vocabulary_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, shown = "odd\udcff\x1b[2J", r"odd\udcff\x1b[2J"
    folder, output = tmp_path / f"corpus-{odd}", tmp_path / f"data-{odd}"
    folder.mkdir()
    for number in range(8):
        text = (corpus / f"speech-{number:02}.txt").read_bytes()
        (folder / f"{odd}-{number}.txt").write_bytes(text + b"\xff")
    words = ("prepare", "--vocab", vocabulary_path, "--phases", "1", "--processes", 1)
    assert _run(*words, "--corpus", f"text:{folder}", "--output", output) == 0
    assert _run(*words, "--corpus", f"text:{folder}", "--output", output) == 0
    printed = capsys.readouterr().out
    assert f"{shown}-0.txt (1)" in printed
    assert f"-> {tmp_path}/data-{shown}\n" in printed
    assert f"data-{shown} is already complete" in printed
    (output / odd).touch()
    assert _run("verify", output) == 64
    assert f"{shown}: expected" in capsys.readouterr().out
    (output / odd).unlink()
    for verb in ("verify", "inspect"):
        assert _run(verb, output) == 0
        printed = capsys.readouterr().out
        assert shown in printed
        assert odd not in printed
    assert _run("duplicates", "--json", "--corpus", f"text:{folder}", "--processes", 1) == 0
    assert json.loads(capsys.readouterr().out)["corpora"] == [f"text:{folder}"]


def test_the_command_to_type_next_repeats_what_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texte").mkdir()
    for number in range(3):
        (tmp_path / "texte" / f"{number}.txt").write_text(f"{TEXTS['German']} " * 40, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = ("--corpus", "text:texte", "--cased", "--strip-accents", "yes", "--language", "german")
    assert _run("vocab", *words, "--size", 400, "--output", "made/vocab.txt") == 0
    printed = capsys.readouterr().out
    assert "tokens, cased, accents stripped, in" in printed
    command = printed.partition("next: ")[2].strip()
    assert command == ("bertjobs data prepare --corpus text:texte --vocab made/vocab.txt --cased --strip-accents yes "
                       "--language german --output DIR")  # fmt: skip
    assert _run(*command.split()[2:-1], tmp_path / "data", "--phases", "1") == 0
    vocabulary = Vocabulary.of_folder(tmp_path / "data")
    assert vocabulary.normalisation == Normalisation(False, True)
    assert "guessed" not in capsys.readouterr().out


def test_a_guess_and_the_unknown_share_are_printed(
    corpus: Path, vocabulary_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "lone.txt"
    lone.write_bytes(vocabulary_path.read_bytes())
    words = ("prepare", "--corpus", f"text:{corpus}", "--output", tmp_path / "data", "--phases", "1", "--vocab", lone)
    for _ in range(2):  # a complete folder is left as it is, and the guess is said again
        assert _run(*words) == 0
        printed = capsys.readouterr().out
        assert "note: guessed: lone.txt is uncased (0 of" in printed
        assert re.search(rf"^sources:\n  1  .*text:{re.escape(str(corpus))}$", printed, re.MULTILINE)
        assert re.search(r"\[UNK\].*\n  1 .* 0\.00% ", printed)
    with pytest.raises(InputError, match="not both"):
        _run(*words, "--cased", "--uncased")
    with pytest.raises(InputError, match="differently"):
        _run(*words, "--strip-accents", "no")


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_corpus_in_another_encoding_gives_the_same(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in corpus.iterdir():
        (other / path.name).write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    made = {}
    for folder, more in ((corpus, ()), (other, ("--encoding", encoding))):
        vocab, output = tmp_path / f"{folder.name}.txt", tmp_path / f"of-{folder.name}"
        given = ("--corpus", f"text:{folder}", *more)
        assert _run("vocab", *given, "--size", 400, "--output", vocab) == 0
        assert (f"#encoding={encoding}" in capsys.readouterr().out) == bool(more)
        assert _run("prepare", *given, "--vocab", vocab, "--output", output, "--phases", "1") == 0
        shards = sorted((output / "phase1" / "train").iterdir())
        made[folder] = (vocab.read_bytes(), [(path.name, map_arrays(path)[0]["ids"].tolist()) for path in shards])
    assert made[corpus] == made[other]


def test_phases_that_are_not_numbers_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be prepared"):
        _run("prepare", "--corpus", f"text:{corpus}", "--vocab", "v", "--output", tmp_path / "d", "--phases", "one")


def test_help_gives_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _run("prepare", "--help")
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("width of a length bin in tokens (default: 64)", "(default: dynamic)", "one per core (default: 0)"):
        assert words in printed


NEEDED = ("prepare", "--corpus", "text:x", "--vocab", "v", "--output", "d")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--queue",), "--queue is for a cluster"),
        (("--slurm", "--jobs", 4, "--nodes", 2), "--jobs and --nodes"),
        (("--slurm", "--sbatch", "-C a100"), "is not an option of sbatch"),
        (("--slurm", "--sbatch", "output=x"), "sbatch's output cannot be given here"),
        (("--slurm", "--site", "nowhere"), "there is no site 'nowhere'"),
        (("--image", "/images/x.sqsh"), "--image is for a cluster"),
        (("--jobs", 4), "--jobs is for a cluster"),
        (("--attempts", 4), "--attempts is for a cluster"),
        (("--nodes", 4), "--nodes is for a cluster"),
        (("--sbatch", "qos=high", "--partition", "cpu"), "--partition is for a cluster"),
        (("--account", "a"), "--account is for a cluster"),
        (("--qos", "high"), "--qos is for a cluster"),
        (("--time", "1:00"), "--time is for a cluster"),
        (("--memory", "4G"), "--memory is for a cluster"),
        (("--cpus", 4), "--cpus is for a cluster"),
        (("--sbatch", "qos=high"), "--sbatch is for a cluster"),
        (("--mounts", "/a:/a"), "--mounts is for a cluster"),
        (("--slurm", "--image", "/a\tb.sqsh"), "not allowed in a path"),
        (("--slurm", "--image", "x.sqsh", "--mounts", "/a"), "mounts must be SRC:DST"),
        (("--slurm", "--image", "x.sqsh", "--container", "docker"), "container must be one of auto, pyxis, apptainer"),
    ],
)
def test_nonsensical_options_for_slurm(
    words: tuple[object, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(InputError, match=says):
        _run(*NEEDED, *words)


def test_a_site_fills_in_what_the_flags_leave_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bertjobs" / "sites").mkdir(parents=True)
    site = "partition: gpu\nqos: normal\ntime: 4:00:00\nsbatch: {mem: 8G, constraint: a100}\n"
    (tmp_path / "bertjobs" / "sites" / "here.yml").write_text(site)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def options(*words: object) -> dict[str, object]:
        return array_options(_parse(*NEEDED, "--slurm", "--site", "here", *words)).parameters()

    assert options() == {
        "partition": "gpu", "qos": "normal", "time": "4:00:00", "mem": "8G", "constraint": "a100", "cpus-per-task": "1",
        "requeue": True,
    }  # fmt: skip
    given = options("--partition", "cpu", "--memory", "2G", "--sbatch", "qos=high", "--sbatch=--exclusive")
    assert given == {
        "partition": "cpu", "qos": "high", "time": "4:00:00", "mem": "2G", "constraint": "a100", "cpus-per-task": "1",
        "requeue": True, "exclusive": True,
    }  # fmt: skip
    assert "partition" not in options("--site", "none")


def test_the_container_is_that_of_the_flags_else_of_the_environment_else_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bertjobs" / "sites").mkdir(parents=True)
    site = "image: /images/site.sif\nmounts: /a:/b\ncontainer: apptainer\nenvironment: [TOKEN]\n"
    (tmp_path / "bertjobs" / "sites" / "here.yml").write_text(site)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.sif").touch()

    def container(*words: object) -> Container | None:
        return array_options(_parse(*NEEDED, "--slurm", "--site", "here", *words)).container

    code = submitting_code()
    assert container() == Container("/images/site.sif", ("/a:/b",), "apptainer", ("TOKEN",), code)
    monkeypatch.setenv("IMAGE", "docker://python")
    assert container() == Container("docker://python", ("/a:/b",), "apptainer", ("TOKEN",), code)
    given = container("--image", "own.sif", "--mounts", "/c:/d", "--container", "auto")
    assert given == Container(str(tmp_path / "own.sif"), ("/c:/d",), "auto", ("TOKEN",), code)
    assert given is not None
    assert container(*given.flags()) == given, "as a queued prepare is given them"
    assert container("--image", "") is None
    assert container("--image", "x.sqsh", "--site", "none") == Container("x.sqsh", code=code)


def test_a_command_is_queued_as_it_was_given() -> None:
    words = ["--corpus", "text:a b", "--corpus", "wiki:c", "--vocab", "v", "--output", "d", "--cased", "--seed", "7"]
    more = ["--slurm", "--queue", "--jobs", "3", "--sbatch", "qos=high", "--sbatch", "exclusive", "--sample-ratio", "1",
            "--no-next-sentence", "--across-documents", "--duplicates", "2"]  # fmt: skip
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    verb = _verb(parser, "data", "prepare")
    args = verb.parse_args([*words, *more])
    again = verb.parse_args(given_words(verb, args))
    assert vars(again) == {**vars(args), "queue": False}
    assert "--sample-ratio=1.0" not in given_words(verb, args), "a default is not repeated"


def _verb(parser: argparse.ArgumentParser, *names: str) -> argparse.ArgumentParser:
    for name in names:
        (verbs,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = verbs.choices[name]
    return parser


def test_whether_the_vocabulary_is_cased_is_recorded_as_it_is(corpus: Path, tmp_path: Path) -> None:
    """No flag is needed where a file beside the vocabulary says it."""
    words = ("--corpus", f"text:{corpus}")
    assert _run("vocab", *words, "--size", 400, "--cased", "--output", tmp_path / "vocab.txt") == 0
    words = ("prepare", *words, "--vocab", tmp_path / "vocab.txt", "--output", tmp_path / "data", "--phases", "1")
    for _ in range(2):
        assert _run(*words) == 0
    assert DataManifest.read(tmp_path / "data").settings["cased"] is True
