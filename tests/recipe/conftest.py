import pytest

from bertjobs.recipe.catalogue import Catalogue, builtin_file, load_catalogue


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The built-in catalogue alone."""
    return load_catalogue([builtin_file()])
