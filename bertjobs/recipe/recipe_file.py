"""One recipe file, checked: every key is known, every value has its type, and all errors are collected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError, first_line
from bertjobs.files.yaml_document import YamlDocument, read_document
from bertjobs.recipe import schema
from bertjobs.recipe.names import check_name
from bertjobs.recipe.schema import Setting, nearest_key
from bertjobs.wording import shown

SECTIONS = ("systems", "models", "vocabularies", "phases", "recipes")
FIELDS = {"systems": schema.SYSTEM, "models": schema.MODEL, "vocabularies": schema.VOCABULARY}
SHA256 = re.compile(r"[0-9a-f]{64}")
_RECIPE_FIELDS = {"description": schema.DESCRIPTION, **{key: s for key, s in schema.RUN.items() if s.in_recipe}}
_PHASE_FIELDS = {key: s for key, s in schema.PHASE.items() if s.in_recipe}


def read_recipe_file(path: Path, label: str) -> tuple[YamlDocument, dict[str, Any], list[tuple[int, InputError]]]:
    """The file, its content (section -> name -> key -> parsed value), and its errors with their lines.

    Wrong values are not in the content. Raises InputError if the file cannot be read or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the recipe file: {error.strerror}", where=label) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        what = f"the recipe file is not UTF-8 text: it holds the byte {error.object[error.start]:#04x}"
        raise InputError(what, where=f"{label}, line {line}", hint="save it as UTF-8") from None
    document, twice = read_document(text, label)
    check = _Check(document)
    try:
        content = check.content()
    except (ValueError, OverflowError, RecursionError) as error:  # numbers of thousands of digits, endless nesting
        raise InputError(f"the recipe file cannot be read: {first_line(error)}", where=label) from None
    return document, content, [*twice, *check.errors]


def _other_home(key: str, path: tuple[Any, ...]) -> str | None:
    """A hint for a setting that stands in a recipe instead of one of its phases, or the other way round; else None.

    Args:
        path: of the mapping that holds the key.
    """
    if path[:1] != ("recipes",):
        return None
    if len(path) == 2 and key in _PHASE_FIELDS:
        return f"{key!r} is a setting of a phase: write it below one, as in phases: {{1: {{{key}: ...}}}}"
    if len(path) == 2 and key in schema.OPTIMIZER:
        return f"{key!r} is a setting of the optimizer, as in optimizer: {{{key}: ...}}"
    if len(path) == 4 and path[2] == "phases" and key in _RECIPE_FIELDS:
        return f"{key!r} is a setting of the recipe: write it beside phases, not below one"
    return None


class _Check:
    """Goes through a document once, and collects its errors with their lines."""

    def __init__(self, document: YamlDocument):
        self.document = document
        self.errors: list[tuple[int, InputError]] = []

    def content(self) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        for section, value in self._mapping(self.document.content, (), SECTIONS).items():
            if section == "phases":
                checked[section] = self._phases(value, (section,))
                continue
            checked[section] = {}
            for name, entry in self._mapping(value, (section,)).items():
                path = (section, name)
                try:
                    check_name(name, section, self.document.place(*path))
                except InputError as error:
                    self.errors.append((self.document.line(*path), error))
                fields = FIELDS.get(section)
                checked[section][name] = self._fields(entry, path, fields) if fields else self._recipe(entry, path)
                self._digest(checked[section][name], path)
        return checked

    def _digest(self, entry: dict[str, Any], path: tuple[Any, ...]) -> None:
        if "sha256" in entry and not SHA256.fullmatch(entry["sha256"]):
            self._refuse(f"sha256 must be 64 hex digits, not {entry['sha256']!r}", (*path, "sha256"))

    def _recipe(self, value: Any, path: tuple[Any, ...]) -> dict[str, Any]:
        mapping = self._mapping(value, path, (*_RECIPE_FIELDS, "optimizer", "phases"))
        plain = {key: item for key, item in mapping.items() if key in _RECIPE_FIELDS}
        recipe = self._fields(plain, path, _RECIPE_FIELDS)
        if "optimizer" in mapping:
            recipe["optimizer"] = self._fields(mapping["optimizer"], (*path, "optimizer"), schema.OPTIMIZER)
        if "phases" in mapping:
            recipe["phases"] = self._phases(mapping["phases"], (*path, "phases"))
        return recipe

    def _phases(self, value: Any, path: tuple[Any, ...]) -> dict[int, Any]:
        phases: dict[int, Any] = {}
        if not isinstance(value, Mapping):
            self._refuse(f"phases must be a mapping from a phase's number, not {shown(value)}", path)
            return phases
        for key, fields in value.items():
            if not re.fullmatch(r"[1-9][0-9]?", str(key)):
                self._refuse(f"a phase is a number from 1 to 99, not {shown(key)}", (*path, key))
                continue
            if int(key) in phases:
                self._refuse(f"phase {key} is given twice", (*path, key))
            phases[int(key)] = self._fields(fields, (*path, key), _PHASE_FIELDS)
        return phases

    def _fields(self, value: Any, path: tuple[Any, ...], settings: Mapping[str, Setting]) -> dict[str, Any]:
        parsed = {}
        for key, item in self._mapping(value, path, tuple(settings)).items():
            try:
                parsed[key] = settings[key].parse(item, self.document.place(*path, key))
            except InputError as error:
                self.errors.append((self.document.line(*path, key), error))
        return parsed

    def _mapping(self, value: Any, path: tuple[Any, ...], known: Sequence[str] | None = None) -> dict[str, Any]:
        """The entries of the value, if it is a mapping, whose keys are text and known."""
        if not isinstance(value, Mapping):
            given = "nothing" if value is None else shown(value)
            self._refuse(f"expected a mapping of keys to values here, not {given}", path)
            return {}
        entries = {}
        for key, item in value.items():
            if known is not None and key not in known:
                hint = _other_home(str(key), path) or nearest_key(str(key), known)
                self._refuse(f"unknown key {shown(key)}", (*path, key), hint)
            elif not isinstance(key, str):
                self._refuse(f"a name must be text, not {shown(key)}", (*path, key), f"put it in quotes: '{key}'")
            else:
                entries[key] = item
        return entries

    def _refuse(self, what: str, path: tuple[Any, ...], hint: str | None = None) -> None:
        error = InputError(what, where=self.document.place(*path), hint=hint)
        self.errors.append((self.document.line(*path), error))
