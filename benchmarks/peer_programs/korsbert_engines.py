"""korsbert's engines. Variants: precision and backend, ``fp32 onnxruntime`` for example.

They are built as an export builds them, but judged by no gate after that: the weights of twins are seeded. int8 is the
first assignment of the search, over less calibration text than an export reads; an export tries further assignments
where the built engine fails. Whether that assignment passed on the held-out part of the text is kept beside the engine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from benchmarks.peer_programs import Encode, Job
from exporter.engines import Engine, EngineFiles, backend_of
from exporter.runtime.encoder import Encoder
from exporter.runtime.facts import EncoderFacts

if TYPE_CHECKING:
    from exporter.checkpoint import Checkpoint
    from exporter.graph import Graph
    from exporter.precisions.int8.search import Assignment
    from exporter.recipe import Gate, Recipe
    from exporter.targets import Target

_ENGINE, _FACTS, _TOKENIZER, _SEARCH = "engine.json", "facts.json", "tokenizer.json", "search.json"


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
    gate = recipe.gates.of(target.precision)
    plan = make_plan(graph, Request(scheme, text, gate))
    chosen = plan.found.candidates[0]
    found = search_facts(chosen, gate, len(job.sentences))
    (_folder(job) / _SEARCH).write_text(json.dumps(found), encoding="utf-8")
    return static.convert(plan, chosen, text.fit)


def search_facts(chosen: Assignment, gate: Gate, sentences: int) -> dict[str, Any]:
    """Return what a result states of int8.

    Args:
        chosen: The assignment that was built.
        gate: Of the recipe, for int8.
        sentences: How many the scales and the choice are from.

    Returns:
        ``passed``: whether the gate held on the held-out text with a margin; ``share`` of the work of all MatMuls that
        is not in int8; ``sentences``.
    """
    return {"passed": chosen.loss.passes(gate), "share": chosen.share, "sentences": sentences}


def _folder(job: Job) -> Path:
    return Path(job.folder) / job.variant.replace(" ", "-")


def facts(job: Job) -> dict[str, Any]:
    """Return ``search_facts`` of an engine in int8, and nothing of others."""
    file = _folder(job) / _SEARCH
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def load(job: Job) -> Encode:
    """Return the encoder's ``encode``."""
    folder = _folder(job)
    engine = Engine.model_validate_json((folder / _ENGINE).read_text(encoding="utf-8"))
    encoder_facts = EncoderFacts.model_validate_json((folder / _FACTS).read_text(encoding="utf-8"))
    runner = backend_of(engine.backend).open(engine, EngineFiles.read(engine, folder), "cpu", job.threads)
    encoder = Encoder.of(encoder_facts, Tokenizer.from_file(str(folder / _TOKENIZER)), runner)
    return lambda texts, batch_size: encoder.encode(texts, batch_size=batch_size)
