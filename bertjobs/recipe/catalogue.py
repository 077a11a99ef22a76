"""The catalogue: what `configurations.yml` and the user's own files hold, checked, later files winning."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import bertjobs
from bertjobs.errors import InputError, nearest
from bertjobs.recipe import schema
from bertjobs.recipe.schema import REQUIRED, Setting, check_name, nearest_key
from bertjobs.recipe.spec import ModelSpec, SystemSpec

SECTIONS = ("systems", "models", "vocabularies", "phases", "recipes")
ANY_VOCABULARY = "any"

_FIELDS = {"systems": schema.SYSTEM, "models": schema.MODEL, "vocabularies": schema.VOCABULARY}
_RECIPE_FIELDS = {"description": schema.DESCRIPTION, **{key: s for key, s in schema.RUN.items() if s.in_recipe}}
_PHASE_FIELDS = {key: s for key, s in schema.PHASE.items() if s.in_recipe}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Layer:
    """One file, checked: section -> name -> key -> value."""

    label: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """A value in the catalogue and where it stands, such as "configurations.yml: recipes.dgx1-32g"."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Catalogue:
    """All files, the first read first; a later one overrides single keys of the earlier ones."""

    layers: tuple[Layer, ...]

    def keys(self, *path: Any) -> list[Any]:
        """The keys of the mapping at ``path`` in any file, in order of first appearance."""
        found: dict[Any, None] = {}
        for layer in self.layers:
            mapping = _at(layer.content, path)
            if isinstance(mapping, Mapping):
                found.update(dict.fromkeys(mapping))
        return list(found)

    def find(self, *path: Any) -> Found | None:
        """The value at ``path`` in the last file that has it."""
        return next(self.find_all(*path), None)

    def find_all(self, *path: Any) -> Iterator[Found]:
        """The values at ``path``, the last file's first."""
        for layer in reversed(self.layers):
            value = _at(layer.content, path)
            if value is not None:
                yield Found(value, f"{layer.label}: {'.'.join(str(part) for part in path[:-1])}")

    def check(self, section: str, name: str, where: str) -> None:
        """Raise InputError, naming the nearest, where ``section`` has no such name."""
        if name not in self.keys(section):
            kind = {"vocabularies": "vocabulary"}.get(section, section.rstrip("s"))
            raise InputError(f"unknown {kind} {name!r}", where=where, hint=nearest(name, self.keys(section)))

    def system(self, name: str, where: str) -> SystemSpec:
        """The system of this name; InputError where there is none."""
        return SystemSpec(name=name, **self._entry("systems", name, where))

    def model(self, name: str, where: str) -> ModelSpec:
        """The model of this name; InputError where there is none or its shape is impossible."""
        model = ModelSpec(name=name, **self._entry("models", name, where))
        if model.hidden_size % model.num_attention_heads:
            raise InputError(
                f"hidden_size {model.hidden_size} is not divisible by num_attention_heads {model.num_attention_heads}",
                where=f"models.{name}",
            )
        return model

    def vocabulary(self, name: str, where: str) -> tuple[str, int]:
        """The sha256 of vocab.txt and its size; ("", 0) for "any", size 0 for a sha256 itself."""
        if name == ANY_VOCABULARY:
            return "", 0
        if _SHA256.fullmatch(name):
            return name, 0
        self.check("vocabularies", name, where)
        entry = self._entry("vocabularies", name, where)
        return entry["sha256"], entry["size"]

    def _entry(self, section: str, name: str, where: str) -> dict[str, Any]:
        self.check(section, name, where)
        entry = {}
        for key, setting in _FIELDS[section].items():
            found = self.find(section, name, key)
            if found is None and setting.default is REQUIRED:
                raise InputError(f"{section}.{name} has no {key}", where=where, hint=f"{key}: {setting.help}")
            entry[key] = found.value if found else setting.default
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
        InputError: a file that cannot be read or parsed (with line and column), a key given twice, an
            unknown key (with the nearest), a value of the wrong type.
    """
    builtin = builtin_file()
    layers = []
    for path in map(Path, paths):
        label = path.name if path == builtin else str(path)
        layers.append(Layer(label, _checked(_read(path, label), label)))
    return Catalogue(tuple(layers))


def _at(content: Any, path: Sequence[Any]) -> Any:
    for key in path:
        if not isinstance(content, Mapping):
            return None
        content = content.get(key)
    return content


def _read(path: Path, label: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the recipe file: {error.strerror}", where=label) from None
    except UnicodeDecodeError as error:
        raise InputError(f"the recipe file is not UTF-8: {error}", where=label) from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        _refuse_twice(node, label)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{label}, line {mark.line + 1}, column {mark.column + 1}" if mark else label
        raise InputError(f"not valid YAML: {error.problem or error.context}", where=place) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"not valid YAML: {reason}", where=label) from None


def _refuse_twice(node: yaml.Node, label: str) -> None:
    """YAML forbids a key given twice, but its parsers keep the last one in silence."""
    todo, visited = [node], set()
    while todo:
        node = todo.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if key.value in seen and isinstance(key, yaml.ScalarNode):
                    mark = key.start_mark
                    place = f"{label}, line {mark.line + 1}, column {mark.column + 1}"
                    raise InputError(f"key {key.value!r} is given twice", where=place)
                if isinstance(key, yaml.ScalarNode):
                    seen.add(key.value)
                todo.append(value)


def _checked(document: Any, label: str) -> dict[str, Any]:
    """The document with every key known and every value parsed."""
    content: dict[str, Any] = {}
    for section, value in _mapping(document, label, SECTIONS).items():
        where = f"{label}: {section}"
        if section == "phases":
            content[section] = _phases(value, where)
            continue
        content[section] = {}
        for name, entry in _mapping(value, where).items():
            check_name(name, where)
            place = f"{where}.{name}"
            fields = _FIELDS.get(section)
            content[section][name] = _fields(entry, fields, place) if fields else _recipe(entry, place)
            _check_digest(content[section][name], place)
    return content


def _check_digest(entry: Mapping[str, Any], where: str) -> None:
    if "sha256" in entry and not _SHA256.fullmatch(entry["sha256"]):
        raise InputError(f"sha256 must be 64 hex digits, not {entry['sha256']!r}", where=where)


def _recipe(value: Any, where: str) -> dict[str, Any]:
    mapping = _mapping(value, where, (*_RECIPE_FIELDS, "optimizer", "phases"))
    recipe = _fields({k: v for k, v in mapping.items() if k in _RECIPE_FIELDS}, _RECIPE_FIELDS, where)
    if "optimizer" in mapping:
        recipe["optimizer"] = _fields(mapping["optimizer"], schema.OPTIMIZER, f"{where}.optimizer")
    if "phases" in mapping:
        recipe["phases"] = _phases(mapping["phases"], f"{where}.phases")
    return recipe


def _phases(value: Any, where: str) -> dict[int, Any]:
    phases: dict[int, Any] = {}
    if not isinstance(value, Mapping):
        raise InputError(f"phases must be a mapping from a phase's number, not {value!r}", where=where)
    for key, fields in value.items():
        if not re.fullmatch(r"[1-9][0-9]?", str(key)):
            raise InputError(f"a phase is a number from 1 to 99, not {key!r}", where=where)
        if int(key) in phases:
            raise InputError(f"phase {key} is given twice", where=where)
        phases[int(key)] = _fields(fields, _PHASE_FIELDS, f"{where}.{key}")
    return phases


def _fields(value: Any, settings: Mapping[str, Setting], where: str) -> dict[str, Any]:
    mapping = _mapping(value, where, tuple(settings))
    return {key: settings[key].parse(item, f"{where}.{key}") for key, item in mapping.items()}


def _mapping(value: Any, where: str, known: Sequence[str] | None = None) -> Mapping[str, Any]:
    """The value, if it is a mapping from text whose keys are all known."""
    if not isinstance(value, Mapping):
        said = "nothing" if value is None else repr(value)
        raise InputError(f"a mapping of keys to values is expected here, not {said}", where=where)
    for key in value:
        if known is not None and key not in known:
            raise InputError(f"unknown key {key!r}", where=f"{where}.{key}", hint=nearest_key(str(key), known))
        if not isinstance(key, str):
            raise InputError(f"a name must be text, not {key!r}", where=where, hint=f"put it in quotes: '{key}'")
    return value
