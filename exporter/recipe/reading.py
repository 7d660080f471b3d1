"""Recipes by file, by name, and made up for a model: YAML to frozen data, and a sentence for every mistake in it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from exporter.errors import RecipeError, printable
from exporter.files import read_text
from exporter.hub.names import is_hub_id
from exporter.recipe.gates import Frozen, Gates
from exporter.recipe.schema import Recipe, recipes_folder

_MOST_BYTES = 256 * 1024  # of a recipe: PyYAML takes 300 times the size of a file in memory
_TOLD = 3  # mistakes of a recipe that a message names


def list_recipes() -> list[Recipe]:
    """Return every recipe that ships, by name."""
    return [load_recipe(path) for path in sorted(recipes_folder().glob("*.yaml"))]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises:
        RecipeError: The file cannot be read, is no YAML mapping, has an unknown key or an impossible value.
    """
    try:
        return Recipe.model_validate(_read_mapping(path)).found_in(path.parent)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error)}") from error


class _WithoutAliases(yaml.SafeLoader):
    """A safe loader that refuses aliases: some of them, one inside the other, are gigabytes of data."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node.

        Raises:
            YAMLError: It is an alias.
        """
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(read_text(path, _MOST_BYTES), _WithoutAliases)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise RecipeError(f"{path}: the recipe cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: not YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, this is {type(content).__name__}")
    return content


class _GatesFile(Frozen):
    """A YAML file with gates alone, as a recipe states them."""

    gates: Gates


def load_gates(path: Path) -> Gates:
    """Read gates from a YAML file that has one key, ``gates``, as recipes have it.

    Raises:
        RecipeError: The file cannot be read, is no YAML mapping, has an unknown key or an impossible value.
    """
    try:
        return _GatesFile.model_validate(_read_mapping(path)).gates
    except ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error)}", next_step="a file of gates has one key, gates") from error


def named_recipe(recipe: str) -> Recipe:
    """Return a recipe by its file or, where there is no such file, by the name of one that ships.

    Raises:
        RecipeError: It is neither, or the file is not a recipe.
    """
    names = sorted(path.stem for path in recipes_folder().glob("*.yaml"))
    if recipe in names and not Path(recipe).is_file():
        return load_recipe(recipes_folder() / f"{recipe}.yaml")
    if not Path(recipe).is_file():
        raise RecipeError(f"{recipe}: neither a file nor a built-in recipe", next_step=f"use one of {', '.join(names)}")
    return load_recipe(Path(recipe))


def find_recipe(model: str) -> Recipe:
    """Return the recipe ``model`` names: a shipped one, or one made up for a local folder or a hub id.

    Without a recipe nothing is expected of the checkpoint and the default gates apply.

    Raises:
        RecipeError: ``model`` is none of the three; the nearest shipped names are told.
    """
    names = sorted(path.stem for path in recipes_folder().glob("*.yaml"))
    if model in names:
        return load_recipe(recipes_folder() / f"{model}.yaml")
    if os.path.isdir(model):  # noqa: PTH112 - False, not an error, for a name that no folder can have
        return Recipe(name=_slug(Path(model).resolve().name), source=str(Path(model).resolve()))
    if is_hub_id(model):
        return Recipe(name=_slug(model.rsplit("/", 1)[-1]), source=model)
    close = difflib.get_close_matches(model, names, n=3, cutoff=0.4)
    raise RecipeError(
        f"{model!r} is neither a recipe nor a folder nor a hub id (owner/name)",
        next_step=f"did you mean {' or '.join(close)}?"
        if close
        else f"use one of {', '.join(names)}, a folder or owner/name",
    )


def _slug(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-._")
    return kept or "model"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _explain(error: ValidationError) -> str:
    """Turn pydantic's list of complaints into sentences that name the nearest legal key: the first three of them."""
    details = error.errors()
    more = [f"and {len(details) - _TOLD} more"] if len(details) > _TOLD else []
    return "; ".join([*(_explain_one(detail) for detail in details[:_TOLD]), *more])


def _explain_one(detail: Any) -> str:
    where = ".".join(printable(str(part), 80) for part in detail["loc"])
    if detail["type"] != "extra_forbidden":
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}" if where else str(detail["msg"])
    legal = _legal_keys(detail["loc"][:-1])
    close = difflib.get_close_matches(str(detail["loc"][-1]), legal, n=1, cutoff=0.5)
    return f"{where}: unknown key" + (f", did you mean {close[0]!r}?" if close else f" (legal: {', '.join(legal)})")


def _legal_keys(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys allowed at ``path`` by walking the models' annotations."""
    model: type[BaseModel] = Recipe
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = next((m for m in _models_in(field.annotation) if m), model)
    return sorted(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
