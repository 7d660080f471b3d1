"""korsbert's engines. Variants: precision and backend, ``fp32 onnxruntime`` for example.

They are built as an export builds them, and judged by no gate here: the weights of twins are seeded. int8 is the first
assignment of the search.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from benchmarks.peer_programs import Encode, Job
from exporter.engines import Engine, EngineFiles, backend_of
from exporter.runtime.encoder import Encoder
from exporter.runtime.facts import EncoderFacts

if TYPE_CHECKING:
    from exporter.checkpoint import Checkpoint
    from exporter.graph import Graph
    from exporter.recipe import Recipe
    from exporter.targets import Target

_ENGINE, _FACTS, _TOKENIZER = "engine.json", "facts.json", "tokenizer.json"


def prepare(job: Job) -> None:
    """Build the engine into a folder of the variant's name."""
    # An engine is loaded as a bundle is: without torch.
    from exporter.checkpoint import load_checkpoint  # noqa: PLC0415
    from exporter.engines.building import build_engine  # noqa: PLC0415
    from exporter.graph.folding import fold  # noqa: PLC0415
    from exporter.recipe import find_recipe  # noqa: PLC0415
    from exporter.targets import Backend, Device, Precision, Target  # noqa: PLC0415

    precision, backend = job.variant.split()
    target = Target(Precision(precision), Backend(backend), Device.CPU)
    recipe = find_recipe(job.checkpoint)
    checkpoint = load_checkpoint(recipe)
    folder = _folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    graph = _typed(fold(checkpoint), target, recipe, checkpoint, job)
    built = build_engine(graph, target, recipe.shapes, folder)
    (folder / _ENGINE).write_text(built.engine.model_dump_json(), encoding="utf-8")
    (folder / _FACTS).write_text(checkpoint.facts.model_dump_json(), encoding="utf-8")
    checkpoint.tokenizer.save(str(folder / _TOKENIZER))


def _typed(graph: Graph, target: Target, recipe: Recipe, checkpoint: Checkpoint, job: Job) -> Graph:
    """Return the graph in the target's precision."""
    from exporter.calibration import TokenBatches, calibration_set  # noqa: PLC0415
    from exporter.precisions import cast_graph  # noqa: PLC0415
    from exporter.precisions.int8 import static  # noqa: PLC0415
    from exporter.precisions.int8.plan import Request, make_plan  # noqa: PLC0415
    from exporter.precisions.int8.scheme import scheme_of  # noqa: PLC0415

    if target.precision != "int8":
        return cast_graph(graph, target.precision, TokenBatches(tuple(job.sentences), checkpoint.tokenizer))
    text = calibration_set(Path(job.text), (), checkpoint.tokenizer, checkpoint.facts.prompt)
    scheme = scheme_of(target.precision, target.backend, target.device)
    plan = make_plan(graph, Request(scheme, text, recipe.gates.of(target.precision)))
    return static.convert(plan, plan.found.candidates[0], text.fit)


def _folder(job: Job) -> Path:
    return Path(job.folder) / job.variant.replace(" ", "-")


def load(job: Job) -> Encode:
    """Return the encoder's ``encode``."""
    folder = _folder(job)
    engine = Engine.model_validate_json((folder / _ENGINE).read_text(encoding="utf-8"))
    facts = EncoderFacts.model_validate_json((folder / _FACTS).read_text(encoding="utf-8"))
    runner = backend_of(engine.backend).open(engine, EngineFiles.read(engine, folder), "cpu", job.threads)
    encoder = Encoder.of(facts, Tokenizer.from_file(str(folder / _TOKENIZER)), runner)
    return lambda texts, batch_size: encoder.encode(texts, batch_size=batch_size)
