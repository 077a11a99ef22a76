"""No test sees the configuration of the person who runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bertjobs.launch.plan.site_file import site_names
from bertjobs.recipe.catalogue import builtin_file, catalogue_files
from tests.hermetic import PYTHONS, hermetic

ROOT = Path(__file__).parent.parent
SEEN = """
import json, os
from pathlib import Path
import tests.conftest
from bertjobs.launch.plan.site_file import site_names
from bertjobs.recipe.catalogue import catalogue_files
print(json.dumps([site_names(os.environ), [str(file) for file in catalogue_files(os.environ, Path("/"))]]))
"""


@pytest.mark.parametrize("name", ["HOME", "XDG_CONFIG_HOME"])
def test_a_user_s_site_and_recipe_files_are_not_seen(tmp_path: Path, name: str) -> None:
    folder = tmp_path / (".config/bertjobs" if name == "HOME" else "bertjobs")
    (folder / "sites").mkdir(parents=True)
    (folder / "recipes.yml").write_text("not: [a recipe file")
    (folder / "sites" / "default.yml").write_text("neither: [is this")
    environ = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CONFIG_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", SEEN], env={**environ, name: str(tmp_path)}, cwd=ROOT, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == [[], [str(builtin_file())]], done.stderr


def test_tests_see_an_empty_home() -> None:
    assert site_names(os.environ) == []
    assert [file.name for file in catalogue_files(os.environ, Path("/"))] == [builtin_file().name]
    assert Path.home() == Path(os.environ["HOME"])


def test_the_user_s_settings_and_jobs_are_not_seen_but_a_test_s_own_are(tmp_path: Path) -> None:
    environ = {
        **{"RECIPE": "mine", "LR": "1", "BERTJOBS_PYTHON": "/bin/false", "SLURM_JOB_ID": "7", "SBATCH_QOS": "low"},
        **{"PATH": "/bin", "HOME": "/home/me", "BERTJOBS_REQUIRE_CLUSTER": "1", "XDG_CACHE_HOME": "/cache"},
        **{"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "GIT_CONFIG_GLOBAL": "/home/me/.gitconfig"},
    }
    assert hermetic(environ, tmp_path) == {
        **{"PATH": "/bin", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")},
        **{"BERTJOBS_REQUIRE_CLUSTER": "1", "XDG_CACHE_HOME": "/cache", "TRITON_HOME": "/home/me"},
    }


def test_git_has_no_settings_but_trust() -> None:
    """Such as ``commit.gpgsign``, with which no commit is made here."""
    listed = subprocess.run(["git", "config", "--global", "--list"], capture_output=True, text=True, check=True)
    assert listed.stdout == "safe.directory=*\n"


def test_python_keeps_bytecode_and_buffers_as_for_most_users() -> None:
    assert not sys.dont_write_bytecode
    assert not os.environ.keys() & PYTHONS


def test_no_example_of_a_property_has_to_be_fast() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check
