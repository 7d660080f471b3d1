"""Recipe: what to export, what it must turn out to be, and what it must prove.

A recipe is frozen data read from one YAML file. Unknown keys are refused with the nearest legal name, so that a
misspelt gate is an error and not a gate that never ran.
"""

from exporter.recipe.gates import Gate, Gates
from exporter.recipe.reading import find_recipe, list_recipes, load_gates, load_recipe, named_recipe
from exporter.recipe.schema import (
    NAME,
    Expectations,
    Int8Options,
    KnownAnswer,
    KnownIds,
    PoolingMode,
    PrecisionOptions,
    Precisions,
    PublishedScore,
    Range,
    Recipe,
    Shapes,
    Source,
    recipes_folder,
    ships,
)

__all__ = [
    "NAME",
    "Expectations",
    "Gate",
    "Gates",
    "Int8Options",
    "KnownAnswer",
    "KnownIds",
    "PoolingMode",
    "PrecisionOptions",
    "Precisions",
    "PublishedScore",
    "Range",
    "Recipe",
    "Shapes",
    "Source",
    "find_recipe",
    "list_recipes",
    "load_gates",
    "load_recipe",
    "named_recipe",
    "recipes_folder",
    "ships",
]
