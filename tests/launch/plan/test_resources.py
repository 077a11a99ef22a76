"""Disk, memory and images: what a run needs, and whether it is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import bertjobs
from bertjobs.launch.plan.resources import (
    checkpoints_bytes,
    container_problems,
    memory_problems,
    results_problems,
)
from bertjobs.slurm.client import Slurm
from tests.launch.plan.runs import resolved, words


class Starting(Slurm):
    """A cluster that starts containers in these ways."""

    def __init__(self, *ways: str) -> None:
        super().__init__({})
        self._ways = ways

    @property
    def present(self) -> bool:
        return True

    def has_pyxis(self) -> bool:
        return "pyxis" in self._ways

    def has_apptainer(self) -> bool:
        return "apptainer" in self._ways


def test_space_for_the_checkpoints(tmp_path: Path) -> None:
    spec = resolved("h200", results=str(tmp_path / "results" / "deeper"))
    # BERT-large: 336 M parameters, float32, with two moments; three checkpoints of each phase, and one being written.
    assert checkpoints_bytes(spec) == 336_226_108 * 12 * 7
    assert results_problems(replace(spec, keep_checkpoints=1, phases=spec.phases[:1])) == []
    (problem,) = results_problems(replace(spec, keep_checkpoints=10**6))
    assert "GB are free" in problem.what
    assert problem.where == str(tmp_path)


def test_a_folder_that_cannot_be_written_is_reported_once() -> None:
    (problem,) = results_problems(resolved("h200", "keep_checkpoints=1000000", results="/proc/results"))
    assert "cannot be written" in problem.what


def test_images_and_mounts(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.sqsh", tmp_path / "bad.sqsh"
    good.write_bytes(b"hsqs" + bytes(100))
    bad.write_bytes(b"hs")

    def image_problems_of(image: str, *mounts: str, **more: str) -> str:
        return words(
            container_problems(resolved("h200", image=image, mounts=",".join(mounts), **more), Starting("pyxis"))
        )

    assert image_problems_of(str(good), f"{tmp_path}:/data:ro", "tmpfs:/scratch", "/nosuch:/x:ro+nofail") == ""
    assert image_problems_of("nvcr.io#nvidia/pytorch:26.01-py3") == ""
    assert image_problems_of("") == ""
    assert "not a squashfs file" in image_problems_of(str(bad))
    assert "cannot be read: No such file" in image_problems_of("here.sqsh")
    assert "cannot be read: Is a directory" in image_problems_of(str(tmp_path))
    text = image_problems_of(str(good), "/nosuch:/x:ro", "/tmp:relative")
    assert "add the flag nofail: /nosuch:/x:ro+nofail" in text
    assert "must be an absolute path, not 'relative'" in text
    assert "pyxis cannot start a .sif file" in image_problems_of("/images/x.sif")


def test_images_and_mounts_for_apptainer(tmp_path: Path) -> None:
    sif, bad, sandbox = tmp_path / "good.sif", tmp_path / "bad.sif", tmp_path / "sandbox"
    sif.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + bytes(100))
    bad.write_bytes(b"hsqs" + bytes(100))
    sandbox.mkdir()

    def problems_of(image: object, *mounts: str, **more: str) -> str:
        spec = resolved("h200", image=str(image), mounts=",".join(mounts), **more)
        return words(container_problems(spec, Starting("apptainer")))

    assert problems_of(sif, f"{tmp_path}:/data:ro") == ""
    assert "not a SIF file" in problems_of(bad)
    assert "it has no bin/sh" in problems_of(sandbox)
    (sandbox / "bin").mkdir()
    (sandbox / "bin" / "sh").touch()
    assert problems_of(sandbox) == ""
    assert "docker://nvcr.io/nvidia/pytorch:26.01-py3" in problems_of("nvcr.io#nvidia/pytorch:26.01-py3")
    (warning,) = container_problems(resolved("h200", image="docker://python:3.12"), Starting("apptainer"))
    assert warning.is_warning
    assert "apptainer build IMAGE.sif docker://python:3.12" in str(warning.hint)
    text = problems_of(sif, "/nosuch:/x:ro+nofail", "/nosuch:/y")
    assert "Apptainer has no mount flags 'ro+nofail'" in text
    assert "there is nothing to mount at /nosuch" in text
    assert "nofail: " not in text


def test_what_starts_an_image_must_be_there() -> None:
    def problems_of(container: str, *ways: str) -> str:
        spec = resolved("h200", image="docker://python", container=container)
        return words([problem for problem in container_problems(spec, Starting(*ways)) if not problem.is_warning])

    assert problems_of("auto", "pyxis") == problems_of("auto", "apptainer") == problems_of("pyxis", "pyxis") == ""
    assert problems_of("apptainer") == "", "the nodes may have it"
    assert "no pyxis (--container-image), and neither apptainer nor singularity is on the PATH" in problems_of("auto")
    assert "no pyxis (--container-image)" in problems_of("pyxis", "apptainer")


def test_code_that_cannot_be_mounted_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = resolved("h200", image="docker://python")
    for file, says in (
        (tmp_path / "bertjobs.zip" / "bertjobs" / "__init__.py", "runs from an archive"),
        (tmp_path / "a:b" / "bertjobs" / "__init__.py", "contains ':'"),
        (tmp_path / "a b" / "bertjobs" / "__init__.py", "contains ' '"),
    ):
        if "archive" not in says:
            file.parent.mkdir(parents=True)
            file.touch()
        monkeypatch.setattr(bertjobs, "__file__", str(file))
        assert says in words(container_problems(spec, Starting("pyxis")))
    monkeypatch.undo()
    assert container_problems(spec, Starting("pyxis")) == []


def test_a_micro_batch_that_does_not_fit_comes_with_the_gradient_steps_that_do() -> None:
    (problem,) = memory_problems(resolved("dgx1-32g", "phase1.micro_batch=512"))
    assert not problem.is_warning
    assert "phase 1: a micro-batch of 512 takes about" in problem.what
    assert "estimate, not measured" in problem.what
    assert problem.hint == "--set phase1.micro_batch=128, which makes GRADIENT_STEPS=64"
    again = resolved("dgx1-32g", "phase1.micro_batch=128")
    assert again.phases[0].gradient_steps == 64
    assert memory_problems(again) == []


def test_a_micro_batch_that_may_fit_is_a_warning() -> None:
    (problem,) = memory_problems(resolved("dgx1-32g", "phase2.micro_batch=32", "system=dgx1-32g", precision="fp32"))
    assert problem.is_warning
    assert ": tight (" in problem.what
