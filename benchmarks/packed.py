"""Sentences of all lengths in one batch, on the CPU: padded, sorted into small batches, and packed without padding."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from tokenizers import Tokenizer

from benchmarks.corpora import MINILM, checkpoint_of
from benchmarks.results import arguments, publish, table, work_folder
from exporter.benchmark import evenly_spread
from exporter.calibration import TokenBatches, calibration_sentences
from exporter.checkpoint import load_checkpoint
from exporter.dependencies import require
from exporter.graph.folding import fold
from exporter.graph.surgery import add_constant, graph_input, make_node
from exporter.precisions import cast_graph
from exporter.recipe import find_recipe
from exporter.runtime.session import session_options
from exporter.runtime.tokens import TextTokenizer, batches_of_little_padding

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.graph import Graph
    from exporter.runtime.vector_types import Vectors

GROUPS = (8, 32)
"""Sentences that a server has at a time."""
AS_SHIPPED = "sorted, padding 16"
_ROWWISE = frozenset({"Add", "Cast", "Gelu", "LayerNormalization", "MatMul"})
_INTEGER = ir.DataType.INT64


def main() -> None:
    """Measure one model, and write ``packed`` (or ``packed-MODEL``) to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--model", choices=("demo", MINILM), default="demo")
    parser.add_argument("--sentences", type=int, default=64, help="of each group size, per round")
    parser.add_argument("--threads", type=int, action="append", help="by default 1 and 2; repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    load_average = os.getloadavg()
    with work_folder(options.work) as work:
        folder = checkpoint_of(options.model, work)
        checkpoint = load_checkpoint(find_recipe("demo" if options.model == "demo" else str(folder)), folder=folder)
        texts = evenly_spread(list(dict.fromkeys(calibration_sentences(None, probes=()))), options.sentences)
        library = Tokenizer.from_file(str(folder / "tokenizer.json"))
        files = _files(fold(checkpoint), TokenBatches(tuple(texts), library), work)
        tokenizer = TextTokenizer(library)
        ids = [row[: checkpoint.facts.max_seq_length] for row in tokenizer.ids(texts)]
        ids = [ids[row] for row in np.random.default_rng(0).permutation(len(ids))]
        rows = [
            row
            for precision, (padded, packed) in files.items()
            for threads in options.threads or (1, 2)
            for row in _measure(_ways(padded, packed, threads, tokenizer), ids, options.rounds, (precision, threads))
        ]
    _report(options, ids, load_average, rows)


def _files(graph: Graph, text: TokenBatches, work: Path) -> dict[str, tuple[Path, Path]]:
    """Write the graph and its packed form in float32, fp16, and int8 by onnxruntime's quantizer; files by precision."""
    files = {precision: _packed_too(cast_graph(graph, precision, text), work) for precision in ("fp32", "fp16")}
    quantizer = require("onnxruntime.quantization")
    logging.disable(logging.WARNING)  # its advice
    kinds = {"op_types_to_quantize": ["MatMul"], "weight_type": quantizer.QuantType.QInt8, "per_channel": True}
    int8 = work / "padded-int8.onnx", work / "packed-int8.onnx"
    for source, target in zip(files["fp32"], int8, strict=True):
        quantizer.quantize_dynamic(source, target, **kinds)
    return {**files, "int8, dynamic": int8}


def _packed_too(graph: Graph, work: Path) -> tuple[Path, Path]:
    model = graph.editable()
    files = work / f"padded-{graph.precision}.onnx", work / f"packed-{graph.precision}.onnx"
    ir.save(model, files[0])
    pack(model)
    ir.save(model, files[1])
    return files


def pack(model: ir.Model) -> None:
    """Rewrite a folded BERT or ALBERT: what acts on each token alone reads a row of all tokens without padding.

    Tokens are gathered before the first LayerNorm, scattered into (batch, sequence, width) for attention and pooling,
    and gathered behind attention. Where the mask is 0, a copy of another token stands, which the mask hides. A batch
    needs one token at least.
    """
    graph = model.graph
    mask = graph_input(graph, "attention_mask")

    def stored(name: str, numbers: object) -> ir.Value:
        return add_constant(model, f"pack/{name}", np.array(numbers, np.int64))

    flat = make_node("Reshape", [mask, stored("flat", [-1])], "pack/Reshape.mask", _INTEGER, ["all"])
    found = make_node("NonZero", [flat.outputs[0]], "pack/NonZero", _INTEGER, [1, "tokens"])
    places = make_node("Squeeze", [found.outputs[0], stored("first", [0])], "pack/Squeeze", _INTEGER, ["tokens"])
    counted = make_node("CumSum", [flat.outputs[0], stored("axis", 0)], "pack/CumSum", _INTEGER, ["all"])
    number = make_node("Sub", [counted.outputs[0], stored("one", 1)], "pack/Sub", _INTEGER, ["all"])
    extents = make_node("Shape", [mask], "pack/Shape", _INTEGER, [2])
    way_back = make_node("Reshape", [number.outputs[0], extents.outputs[0]], "pack/Reshape.back", _INTEGER, mask.shape)
    graph.insert_before(graph[0], [flat, found, places, counted, number, extents, way_back])
    packed: dict[ir.Value, ir.Value] = {}  # of (batch, sequence, width)
    padded: dict[ir.Value, ir.Value] = {}  # of (tokens, width)
    rows: set[ir.Value] = set()
    words, started = _on_words(graph), False
    for node in list(graph):
        started |= node.op_type == "LayerNormalization"
        computed = [value for value in node.inputs if value is not None and not value.is_initializer()]
        if started and node.op_type in _ROWWISE and all(value in rows or value in words for value in computed):
            for index, value in enumerate(node.inputs):
                if value is None or value not in words or value in rows:
                    continue
                if value not in packed:
                    assert value.shape is not None
                    assert value.dtype is not None
                    name, width = f"pack/{len(packed)}", value.shape[2]
                    shape = stored(f"shape.{len(packed)}", [-1, int(str(width))])
                    every = make_node("Reshape", [value, shape], f"{name}/Reshape", value.dtype, ["all", width])
                    inputs = [every.outputs[0], places.outputs[0]]
                    kept = make_node("Gather", inputs, f"{name}/Gather", value.dtype, ["tokens", width], {"axis": 0})
                    graph.insert_before(node, [every, kept])
                    packed[value] = kept.outputs[0]
                node.replace_input_with(index, packed[value])
            output = node.outputs[0]
            assert output.shape is not None
            output.shape = ir.Shape(["tokens", output.shape[2]])
            rows.add(output)
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value not in rows:
                continue
            if value not in padded:
                assert value.shape is not None
                assert value.dtype is not None
                assert mask.shape is not None
                inputs, shape_back = [value, way_back.outputs[0]], [*mask.shape, value.shape[1]]
                back = make_node("Gather", inputs, f"unpack/{len(padded)}", value.dtype, shape_back, {"axis": 0})
                graph.insert_before(node, [back])
                padded[value] = back.outputs[0]
            node.replace_input_with(index, padded[value])


def _on_words(graph: ir.Graph) -> set[ir.Value]:
    """Return what is computed from word vectors and has one vector for each token."""
    ids = {graph_input(graph, "input_ids")}
    words: set[ir.Value] = set()
    for node in graph:
        if node.op_type == "Reshape" and node.inputs[0] in ids:
            ids.add(node.outputs[0])
        elif (node.op_type == "Gather" and node.inputs[1] in ids) or words & {*node.inputs}:
            shape = node.outputs[0].shape
            if shape is not None and len(shape) in (3, 4):
                words.add(node.outputs[0])
    return words


def _ways(padded: Path, packed: Path, threads: int, tokenizer: TextTokenizer) -> dict[str, Any]:
    """Return the ways to encode a group of sentences, by name."""
    sessions = {
        "padded": _opened(padded, session_options(threads)),
        "fused": _opened(padded, session_options(threads, "cuda")),  # with SkipLayerNormalization, as onnxruntime fuses
        "packed": _opened(packed, session_options(threads)),
    }

    def way(name: str, padding: int | None) -> Any:
        def encode(rows: Sequence[Sequence[int]]) -> Vectors:
            batches: Any = [list(range(len(rows)))]
            if padding is not None:
                lengths = [len(row) for row in rows]
                batches = batches_of_little_padding(
                    lengths, batch_size=len(rows), token_budget=2**30, padding_tokens=padding
                )
            parts: dict[int, Vectors] = {}
            for batch in batches:
                ids, mask = tokenizer.pad([rows[row] for row in batch])
                vectors = sessions[name].run(None, {"input_ids": ids, "attention_mask": mask})[0]
                parts.update(zip(batch, vectors, strict=True))
            return np.stack([parts[row] for row in range(len(rows))])

        return encode

    return {
        "padded, one batch": way("padded", None),
        "sorted, padding 16, norms fused": way("fused", 16),
        "sorted, padding 0": way("padded", 0),
        AS_SHIPPED: way("padded", 16),
        "sorted, padding 64": way("padded", 64),
        "packed, padding 16": way("packed", 16),
        "packed, padding 64": way("packed", 64),
        "packed, padding 256": way("packed", 256),
        "packed, one batch": way("packed", None),
    }


def _opened(file: Path, options: Any) -> Any:
    return require("onnxruntime").InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _measure(
    ways: dict[str, Any], ids: Sequence[Sequence[int]], rounds: int, of: tuple[str, int]
) -> list[tuple[str, ...]]:
    """Time all ways in turns, every second round in reverse order; a round that is not counted comes first."""
    found = []
    for size in GROUPS:
        groups = [ids[start : start + size] for start in range(0, len(ids), size)]
        wall: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        expected = ways[AS_SHIPPED](groups[0])
        deviation = {name: float(np.abs(ways[name](groups[0]) - expected).max()) for name in ways}
        for number in range(rounds + 1):
            for name in list(ways) if number % 2 else list(ways)[::-1]:
                started, used = time.perf_counter(), time.process_time()
                for group in groups:
                    ways[name](group)
                if number:
                    wall[name].append(time.perf_counter() - started)
                    cpu[name].append(time.process_time() - used)
        found += [
            (
                of[0],
                str(of[1]),
                str(size),
                name,
                *(f"{1000 * np.median(seconds[name]) / len(ids):.2f}" for seconds in (wall, cpu)),
                *(f"{np.median(np.divide(s[AS_SHIPPED], s[name])):.2f}x" for s in (wall, cpu)),
                f"{deviation[name]:.1e}",
            )
            for name in ways
        ]
    return found


def _report(
    options: Namespace,
    ids: Sequence[Sequence[int]],
    load_average: tuple[float, float, float],
    rows: list[tuple[str, ...]],
) -> None:
    tokens = np.array([len(row) for row in ids])
    padding = {
        size: float(np.mean([1 - g.mean() / g.max() for g in np.split(tokens, range(size, len(tokens), size))]))
        for size in GROUPS
    }
    conditions = (
        f"{len(ids)} calibration sentences that ship ({tokens.mean():.1f} tokens each) in random order, in groups; "
        f"in one batch {padding[8]:.0%} of the tokens of 8 sentences are padding, and {padding[32]:.0%} of 32. "
        f"ONNX Runtime on the CPU, from token ids to vectors; medians of {options.rounds} rounds in turns, the ratios "
        f"within rounds to what ships (`{AS_SHIPPED}`); more is faster. `norms fused` is the same with ONNX Runtime's "
        "SkipLayerNormalization. `padding N` is `padding_tokens` of `Encoder.encode_tokens`. int8 is onnxruntime's, "
        "whose scales depend on what shares a batch: hence its differences. The load average was "
        f"{load_average[0]:.1f} before the run: where that is not near 0, others were at work, and CPU time says more."
    )
    header = (
        *("", "threads", "sentences", "way", "wall ms a sentence", "CPU ms"),
        *("wall ratio", "CPU ratio", "largest difference"),
    )
    data = {
        "model": options.model,
        "tokens_per_sentence": float(tokens.mean()),
        "padding": padding,
        "load_average": list(load_average),
        "rows": [dict(zip(("precision", *header[1:]), row, strict=True)) for row in rows],
    }
    name = "packed" if options.model == "demo" else f"packed-{options.model}"
    heading = f"# Packed sentences, with {options.model}"
    publish(name, options.results, data, (heading, conditions, table(header, rows)), [])


if __name__ == "__main__":
    main()
