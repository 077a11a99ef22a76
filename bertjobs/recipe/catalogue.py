"""The catalogue: the checked content of `configurations.yml` and the user's own files; later files win."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bertjobs
from bertjobs.errors import InputError, nearest, raise_all
from bertjobs.files.yaml_document import YamlDocument
from bertjobs.recipe.recipe_file import FIELDS, SHA256, read_recipe_file
from bertjobs.recipe.schema import REQUIRED
from bertjobs.recipe.spec import ModelSpec, SystemSpec

ANY_VOCABULARY = "any"


@dataclass(frozen=True)
class CatalogueFile:
    """One file, and its checked content: section -> name -> key -> value."""

    document: YamlDocument
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Filed:
    """A value in the catalogue, and the keys that lead to it in a file."""

    value: Any
    document: YamlDocument
    path: tuple[Any, ...]

    @property
    def origin(self) -> str:
        """Where it is, in words, such as "configurations.yml: recipes.dgx1-32g"."""
        return f"{self.document.label}: {'.'.join(map(str, self.path[:-1]))}"

    @property
    def place(self) -> str:
        """The same with its line, for errors: "configurations.yml, line 50: recipes.dgx1-32g.system"."""
        return self.document.place(*self.path)


@dataclass(frozen=True)
class Catalogue:
    """All files, the first read first; a later one overrides single keys of the earlier ones."""

    layers: tuple[CatalogueFile, ...]

    def keys(self, *path: Any) -> list[Any]:
        """The keys of the mapping at ``path`` in any file, in order of first appearance."""
        keys: dict[Any, None] = {}
        for layer in self.layers:
            mapping = _at(layer.content, path)
            if isinstance(mapping, Mapping):
                keys.update(dict.fromkeys(mapping))
        return list(keys)

    def only(self, section: str) -> Catalogue:
        """One section of all files."""
        parts = [{key: part for key, part in layer.content.items() if key == section} for layer in self.layers]
        return Catalogue(
            tuple(CatalogueFile(layer.document, part) for layer, part in zip(self.layers, parts, strict=True))
        )

    def find(self, *path: Any) -> Filed | None:
        """The value at ``path`` in the last file that has it."""
        return next(self.find_all(*path), None)

    def find_all(self, *path: Any) -> Iterator[Filed]:
        """The values at ``path``, the last file's first."""
        for layer in reversed(self.layers):
            value = _at(layer.content, path)
            if value is not None:
                yield Filed(value, layer.document, path)

    def check(self, section: str, name: str, where: str) -> None:
        """Raise InputError, naming the nearest, if ``section`` does not have this name."""
        if name not in self.keys(section):
            kind = {"vocabularies": "vocabulary"}.get(section, section.rstrip("s"))
            raise InputError(f"unknown {kind} {name!r}", where=where, hint=nearest(name, self.keys(section)))

    def dangling(self) -> Iterator[tuple[Filed, InputError]]:
        """The names in recipes of systems, models and vocabularies that no file has, each with an error."""
        for name in self.keys("recipes"):
            for key, section in (("system", "systems"), ("model", "models"), ("vocabulary", "vocabularies")):
                named = self.find("recipes", name, key)
                if named and not (section == "vocabularies" and _is_vocabulary(named.value)):
                    try:
                        self.check(section, named.value, named.place)
                    except InputError as error:
                        yield named, error

    def system(self, name: str, where: str) -> SystemSpec:
        """The system of this name; InputError if there is none."""
        return SystemSpec(name=name, **self._entry("systems", name, where))

    def model(self, name: str, where: str) -> ModelSpec:
        """The model of this name; InputError if there is none or its shape is impossible."""
        model = ModelSpec(name=name, **self._entry("models", name, where))
        if model.hidden_size % model.num_attention_heads:
            raise InputError(
                f"hidden_size {model.hidden_size} is not divisible by num_attention_heads {model.num_attention_heads}",
                where=f"models.{name}",
            )
        return model

    def vocabulary(self, name: str, where: str) -> tuple[str, int]:
        """The sha256 of vocab.txt and its size; ("", 0) for "any", size 0 for a sha256 itself."""
        if _is_vocabulary(name):
            return "" if name == ANY_VOCABULARY else name, 0
        self.check("vocabularies", name, where)
        entry = self._entry("vocabularies", name, where)
        return entry["sha256"], entry["size"]

    def _entry(self, section: str, name: str, where: str) -> dict[str, Any]:
        self.check(section, name, where)
        entry = {}
        for key, setting in FIELDS[section].items():
            given = self.find(section, name, key)
            if given is None and setting.default is REQUIRED:
                raise InputError(f"{section}.{name} has no {key}", where=where, hint=f"{key}: {setting.help}")
            entry[key] = given.value if given else setting.default
        return entry


def builtin_file() -> Path:
    """The catalogue that comes with the package: inside a wheel, or at the repository's root."""
    package = Path(bertjobs.__file__).parent
    inside = package / "configurations.yml"
    return inside if inside.exists() else package.parent / "configurations.yml"


def catalogue_files(environ: Mapping[str, str], cwd: Path, extra: Sequence[str | Path] = ()) -> list[Path]:
    """The files to load, the weakest first: built-in, the user's configuration, ./bertjobs.yml, ``extra``."""
    files = [builtin_file()]
    home = environ.get("HOME")
    config = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    own = [Path(config) / "bertjobs" / "recipes.yml"] if config else []
    files += [file for file in (*own, cwd / "bertjobs.yml") if file.exists()]
    return files + [Path(file) for file in extra]


def load_catalogue(paths: Iterable[str | Path]) -> Catalogue:
    """Read and check the files; a later one wins, key by key.

    Raises:
        InputError: a file that cannot be read or parsed (with line and column); or all of these, each with its line:
            keys given twice, unknown keys (with the nearest), values of the wrong type; beside them also names of
            systems, models and vocabularies that no file has.
    """
    builtin = builtin_file()
    layers: list[CatalogueFile] = []
    wrong: list[tuple[int, int, InputError]] = []
    for path in map(Path, paths):
        document, content, errors = read_recipe_file(path, path.name if path == builtin else str(path))
        wrong += [(len(layers), line, error) for line, error in errors]
        layers.append(CatalogueFile(document, content))
    catalogue = Catalogue(tuple(layers))
    if wrong:
        order = {id(layer.document): number for number, layer in enumerate(layers)}
        wrong += [(order[id(at.document)], at.document.line(*at.path), error) for at, error in catalogue.dangling()]
    raise_all([error for _, _, error in sorted(wrong, key=lambda entry: entry[:2])])
    return catalogue


def _at(content: Any, path: Sequence[Any]) -> Any:
    for key in path:
        if not isinstance(content, Mapping):
            return None
        content = content.get(key)
    return content


def _is_vocabulary(name: str) -> bool:
    """Whether a recipe's vocabulary needs no entry in the catalogue."""
    return name == ANY_VOCABULARY or bool(SHA256.fullmatch(name))
