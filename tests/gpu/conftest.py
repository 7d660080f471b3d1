"""Tests that need an NVIDIA GPU. Anywhere else every one of them is skipped, and says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.engines.cuda import find_gpu
from exporter.recipe import Recipe, find_recipe
from tests.support.twins import MEASURED, build_twin

MODELS = (*MEASURED, "demo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what lies in this folder where there is no GPU."""
    if find_gpu() is not None:
        return
    skip = pytest.mark.skip(reason="there is no NVIDIA GPU here")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


Model = Callable[[str], tuple[Recipe, Path | None]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A function that returns a recipe that a model can meet, and the folder of its checkpoint."""
    folder = tmp_path_factory.mktemp("twins")

    def get(name: str) -> tuple[Recipe, Path | None]:
        if name == "demo":
            return find_recipe(name), None
        if not (folder / name).is_dir():
            build_twin(name, folder / name)
        expect = find_recipe(name).expect.model_copy(update={"dimension": None})  # small twins are narrower
        return find_recipe(name).model_copy(update={"known_answer": None, "expect": expect}), folder / name

    return get
