"""The run directory: its folders, journal and DONE.json."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.files.reading import DamagedFileError
from bertjobs.run.directory import Done, RunDirectory, all_runs, check_writable, open_run

DONE = Done(phase=1, step=30, checkpoint="step-00000030", sha256="ab", recipe_hash="cd", time_unix_s=1.5)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "results" / "trial")
    directory.create()
    directory.write_lockfile("recipes: {}\n")
    return directory


def test_folders_are_private_to_their_owner(run: RunDirectory) -> None:
    phase = run.phase(1)
    phase.create()
    phase.create()
    for folder in (run.root, phase.root, phase.logs, phase.checkpoints):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_done_is_read_back(run: RunDirectory) -> None:
    phase = run.phase(1)
    phase.create()
    assert phase.done() is None
    phase.write_done(DONE)
    assert phase.done() == DONE


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": 3}', b"\xff", b"[" * 100_000])
def test_an_invalid_done_file_is_an_error(run: RunDirectory, content: bytes) -> None:
    phase = run.phase(1)
    phase.create()
    phase.done_file.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"DONE\.json cannot be read") as error:
        phase.done()
    assert "delete it" in str(error.value.hint)


def test_a_done_file_that_leads_out_of_the_run_is_an_error(run: RunDirectory) -> None:
    run.phase(1).create()
    run.phase(1).write_done(replace(DONE, checkpoint="../../other"))
    with pytest.raises(DamagedFileError, match="not a folder's name"):
        run.phase(1).done()


def test_the_journal_keeps_events_in_order(run: RunDirectory) -> None:
    run.record("submitted", job="7")
    run.record("ended", job="7", cause="SIGTERM")
    assert [(event["event"], event["job"]) for event in run.events()] == [("submitted", "7"), ("ended", "7")]
    assert all(event["time_unix_s"] > 1.7e9 for event in run.events())
    assert len(run.journal.read_text().splitlines()) == 2
    assert json.loads(run.journal.read_text().splitlines()[1])["cause"] == "SIGTERM"


def test_phases_are_listed_in_order(run: RunDirectory) -> None:
    for number in (10, 2, 1):
        run.phase(number).create()
    for name in ("phase-notes", "phase²", "phase0", "phase01", "phase"):
        (run.root / name).mkdir()
    assert [phase.number for phase in run.phases()] == [1, 2, 10]


def test_a_run_is_opened_by_name_or_path(run: RunDirectory) -> None:
    assert open_run(run.root.parent, "trial").root == run.root
    assert open_run(Path("elsewhere"), str(run.root)).root == run.root


def test_a_run_whose_job_ended_before_it_wrote_a_run_yml_is_a_run(run: RunDirectory) -> None:
    by_hand = RunDirectory(run.root.parent / "dgx1-16g")
    (run.root.parent / "notes").mkdir()
    by_hand.create()
    with pytest.raises(InputError) as error:
        open_run(run.root.parent, "dgx1-16g")
    assert error.value.what == "the folder 'dgx1-16g' holds no run"
    assert "did you mean" not in error.value.render()
    by_hand.phase(1).logs.mkdir(parents=True)
    assert open_run(run.root.parent, "dgx1-16g").root == by_hand.root
    assert {each.name for each in all_runs(run.root.parent)} == {"trial", "dgx1-16g"}


def test_a_damaged_run_is_a_run_unless_it_is_another_s(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run.lockfile.unlink()
    run.lockfile.symlink_to("nowhere")
    assert [each.root for each in all_runs(run.root.parent)] == [run.root]
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    assert all_runs(run.root.parent) == []


def test_a_misspelt_run_names_the_nearest(run: RunDirectory) -> None:
    with pytest.raises(InputError) as error:
        open_run(run.root.parent, "trail")
    assert "did you mean 'trial'?" in str(error.value)


def test_a_folder_that_cannot_be_made_is_bad_input(run: RunDirectory) -> None:
    (run.root.parent / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        RunDirectory(run.root.parent / "file" / "trial").create()
    (run.root / "phase1").write_text("")
    with pytest.raises(InputError, match="cannot be written") as error:
        run.phase(1).create()
    assert "phase1" in str(error.value)


def test_checking_a_folder_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        check_writable(tmp_path / "file")
