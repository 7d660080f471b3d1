"""The gate that needs no GPU: TensorRT-RTX compiles the five small twins and the demo in every precision.

What its engines answer only a GPU can tell (``tests/gpu``); that its parser and builder take every node, in the type it
was given, with attention in the form meant for it, is told here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.calibration import TokenBatches, calibration_sentences
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.engines.tensorrt.build import LOG, PLAN, TENSORRT_RTX
from exporter.graph import Graph
from exporter.graph.folding import fold
from exporter.graph.passes import passes_for, run_passes
from exporter.precisions import cast_graph
from exporter.recipe import find_recipe
from tests.support.twins import MEASURED, build_twin

pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (make .venv/ready installs it where there is a wheel)"
)

MODELS = (*MEASURED, "demo")
TYPES = {"fp32": "float", "fp16": "half", "bf16": "bf16"}

Folded = Callable[[str], tuple[Checkpoint, Graph]]


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Folded:
    """A function that returns a model's checkpoint and graph, folded once for all its precisions."""
    made: dict[str, tuple[Checkpoint, Graph]] = {}

    def get(name: str) -> tuple[Checkpoint, Graph]:
        if name not in made:
            source = name if name == "demo" else str(build_twin(name, tmp_path_factory.mktemp("twins") / name))
            checkpoint = load_checkpoint(find_recipe(source))
            made[name] = checkpoint, fold(checkpoint)
        return made[name]

    return get


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("name", MODELS)
def test_it_builds_without_a_gpu(
    folded: Folded, name: str, precision: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, graph = folded(name)
    batches = TokenBatches(calibration_sentences(None, ())[:32], checkpoint.tokenizer)
    typed = cast_graph(graph, precision, batches)
    model = typed.editable()
    run_passes(model, passes_for("tensorrt-rtx", "cuda", precision))
    typed = typed.with_model(model)
    capfd.readouterr()

    engine = TENSORRT_RTX.build(typed, find_recipe("demo").shapes, tmp_path)

    assert capfd.readouterr() == ("", "")
    assert engine.files == (PLAN, LOG)
    # Weights are in it, each once, however many layers share them: what else there is are kernels, a few MB a profile.
    weights = typed.weight_bytes()
    assert weights < (tmp_path / PLAN).stat().st_size < weights + 6e6 * len(engine.facts.profiles)
    assert "Engine generation completed" in (tmp_path / LOG).read_text(encoding="utf-8")
    attention = next(text for text in engine.decisions if text.startswith("attention: "))
    layers = checkpoint.facts.layers if precision != "fp32" else 0
    assert attention == f"attention: {layers} operators, {layers} of them by lengths, 0 with a mask"
    assert engine.facts.padding == ("any" if precision == "fp32" else "right")
    network = next(text for text in engine.decisions if text.startswith("network: "))
    by_type = {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)[,)]", network)}
    assert max(by_type, key=by_type.__getitem__) == TYPES[precision]
    if precision != "fp32":
        assert by_type.get("float", 0) < 20, "float32 is what follows the transformer, and nothing else"


def test_a_mask_builds_too_for_tokenizers_that_pad_left(folded: Folded, tmp_path: Path) -> None:
    checkpoint, graph = folded("ko-sbert-multitask")
    batches = TokenBatches(calibration_sentences(None, ())[:32], checkpoint.tokenizer)
    engine = TENSORRT_RTX.build(cast_graph(graph, "fp16", batches), find_recipe("demo").shapes, tmp_path)
    layers = checkpoint.facts.layers
    assert f"attention: {layers} operators, 0 of them by lengths, {layers} with a mask" in engine.decisions
    assert engine.facts.padding == "any"


def test_attention_in_float32_is_why_it_is_written_out(folded: Folded, tmp_path: Path) -> None:
    from exporter.errors import BuildError

    with pytest.raises(BuildError, match=r"tensorrt-rtx cannot build the graph: .*[Aa]ttention"):
        TENSORRT_RTX.build(folded("ko-sbert-multitask")[1], find_recipe("demo").shapes, tmp_path)
