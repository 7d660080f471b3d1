"""A command's options from the fields of a pydantic model, so that each is described once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo


def flag_of(option: str) -> str:
    """Return the flag of an option."""
    return f"--{option.replace('_', '-')}"


def flags_of(option: str, value: Any) -> list[str]:
    """Return the words on a command line that give an option a value."""
    if isinstance(value, bool):
        return [flag_of(option if value else f"no_{option}")]
    values = value if isinstance(value, list | tuple) else (value,)
    return [word for one in values for word in (flag_of(option), str(one))]


def parameter(name: str, kind: Any, default: Any, **settings: Any) -> inspect.Parameter:
    """Return an option as typer reads it from a signature."""
    flag = f"{flag_of(name)}/{flag_of(f'no_{name}')}" if kind is bool and default else flag_of(name)
    annotation = Annotated[kind, typer.Option(flag, **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def parameters_of(
    options: type[BaseModel], *, without: Iterable[str] = (), groups: Mapping[str, Iterable[str]] | None = None
) -> Iterator[inspect.Parameter]:
    """Yield an option for each field of a model, in the order of the groups on the help page; then those of no group.

    Args:
        options: The model.
        without: Fields that are no options.
        groups: The titles of the groups, with the names of the fields in each.
    """
    group_of = {name: title for title, names in (groups or {}).items() for name in names}
    order = [*group_of, *(name for name in options.model_fields if name not in group_of)]
    for name in order:
        if name not in without:
            field = options.model_fields[name]
            extra = field.json_schema_extra
            metavar = extra.get("metavar") if isinstance(extra, dict) else None
            settings = {"help": field.description, "metavar": metavar, "rich_help_panel": group_of.get(name)}
            yield parameter(name, *_type_and_default(field), **settings)


def with_parameters(
    command: Callable[..., None], name: str, parameters: Iterable[inspect.Parameter]
) -> Callable[..., None]:
    """Return a function that passes its arguments to ``command`` and has the signature that typer is to read."""

    def called(**given: Any) -> None:
        command(**given)

    called.__name__ = name
    called.__doc__ = command.__doc__
    called.__annotations__ = {}
    called.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    return called


def own_parameters(command: Callable[..., None], *names: str) -> Iterator[inspect.Parameter]:
    """Yield parameters that ``command`` declares itself."""
    own = inspect.signature(command, eval_str=True).parameters
    for name in names:
        yield own[name].replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _type_and_default(field: FieldInfo) -> tuple[Any, Any]:
    """Return the type and default for typer. An option with several values is repeated on the command line."""
    if field.default == ():
        return list[get_args(field.annotation)[0]] | None, None  # type: ignore[misc]
    if field.default is not None:
        return field.annotation, field.default
    kind = next(kind for kind in get_args(field.annotation) if kind is not type(None))
    return (list[str] if get_origin(kind) is tuple else kind) | None, None
