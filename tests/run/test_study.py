"""The file of a study, and its names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.files.reading import DamagedFileError
from bertjobs.run.directory import RunDirectory, all_runs
from bertjobs.run.own_job import own_job
from bertjobs.run.study import Study, all_studies, check_new, find_study, study_file

SETTINGS = [{"seed": "42"}, {"seed": "43"}]


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    study = Study.of(tmp_path, "sst2", SETTINGS)
    study.write()
    assert find_study(tmp_path, "sst2") == study
    assert [directory.name for directory in study.directories] == ["sst2-1", "sst2-2"]
    assert all_studies(tmp_path) == ["sst2"]
    assert all_runs(tmp_path) == [], "the folder of studies is not a run"


@pytest.mark.parametrize("name", ["mrpc", "../sst2", "/sst2"])
def test_what_is_no_study_is_not_found(tmp_path: Path, name: str) -> None:
    Study.of(tmp_path, "sst2", SETTINGS).write()
    assert find_study(tmp_path, name) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"members": []}', '{"members": [1]}', '{"members": [{"number": "1", "settings": {}}]}',
     '{"members": [{"number": 1}]}'],
)  # fmt: skip
def test_a_damaged_file_is_an_error_in_words(tmp_path: Path, text: str) -> None:
    file = study_file(tmp_path, "sst2")
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(DamagedFileError, match=r"sst2\.json cannot be read"):
        find_study(tmp_path, "sst2")


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    study = Study.of(tmp_path, "sst2", SETTINGS)
    check_new(study)
    run = RunDirectory(tmp_path / "sst2")
    run.create()
    run.record("submitted", backend="local", phase=1, job="local-1")
    with pytest.raises(InputError, match="a run named 'sst2' exists"):
        check_new(study)
    study.write()
    with pytest.raises(InputError, match="a study named 'sst2' exists"):
        check_new(study)


def test_the_runs_names_must_be_valid(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a valid name"):
        check_new(Study.of(tmp_path, "x" * 127, SETTINGS))


def test_an_element_of_an_array_has_slurms_own_name() -> None:
    assert own_job({"SLURM_JOB_ID": "19"}) == "19"
    assert own_job({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}) == "17_3"
    assert own_job({"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "0"}) == "17_0"
    assert own_job({}) is None
