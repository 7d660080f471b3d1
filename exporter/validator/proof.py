"""Proof: the checks that judge a candidate besides its gate, from the checkpoint's own files and parameters.

A gate sees real sentences, and they reach some thousand words, batches of a few sizes and a part of all widths. The
checks cover the rest, each by a comparison with another source::

    tokenizer     the published tokenizer and the checkpoint's own files, read without transformers
    weights       the published engine and the checkpoint's parameters
    graph         the published engine and the float32 graph that passed gate 1, operator for operator
    dataflow      the operators of the float32 graph, and rules of what they may read
    lookup        the rows of word vectors that the float32 graph finds for every id, and the checkpoint's
    prompts       the encoder and SentenceTransformer with each named prompt
    sweep         the engine and PyTorch on word rows and positions; the engine and itself on batches and widths
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from tokenizers import Tokenizer
from torch import nn

from exporter.checkpoint import Checkpoint
from exporter.engines import Engine
from exporter.errors import BundleError
from exporter.graph import Graph
from exporter.machine import tool_versions
from exporter.recipe import Gate, Range, Shapes
from exporter.runtime.encoder import Encoder
from exporter.targets import Backend, Precision, Target
from exporter.validator import Check
from exporter.validator.dataflow import check_dataflow
from exporter.validator.lookup import check_lookup
from exporter.validator.prompts import PromptVectors, check_prompts, named_prompts, prompt_vectors_of
from exporter.validator.provenance import (
    Parameter,
    StoredGraph,
    check_graph,
    check_weights,
    read_onnx,
    read_onnx_by_openvino,
    read_openvino,
)
from exporter.validator.provenance.parameters import dependent_parameters
from exporter.validator.sweeps import SweepReference, sweep
from exporter.validator.sweeps.inputs import WIDTH_TOKENS
from exporter.validator.tokenizer import check_tokenizer

FOLDING_TOOLS = ("korsbert", "torch", "transformers", "sentence-transformers", "onnxscript", "onnx-ir")
"""What decides in which operators a checkpoint is folded."""


class Proof:
    """What judges every candidate of one checkpoint. What the checks need is computed once.

    Args:
        checkpoint: The reference.
        texts: The probes, without the prompt.
        shapes: Batch and sequence extents that an engine must serve.
    """

    def __init__(self, checkpoint: Checkpoint, texts: Sequence[str], shapes: Shapes) -> None:
        self._checkpoint = checkpoint
        self._probes = tuple(texts)
        prompts = dict.fromkeys((checkpoint.facts.prompt, *checkpoint.facts.prompts.values()))
        self._texts = [prompt + text for prompt in prompts for text in texts]
        self._shapes = shapes
        self._tokenizers: dict[str, Check] = {}

    @cached_property
    def _parameters(self) -> dict[str, Parameter]:
        return dependent_parameters(self._checkpoint)

    @property
    def _words(self) -> nn.Embedding:
        found: nn.Embedding = self._checkpoint.model[0].auto_model.get_input_embeddings()
        return found

    @cached_property
    def _prompt_vectors(self) -> PromptVectors | None:
        return prompt_vectors_of(self._checkpoint, self._probes)

    @cached_property
    def _sweep_reference(self) -> SweepReference:
        return SweepReference(self._checkpoint)

    def tokenizer(self, published: Tokenizer) -> Check:
        """Compare the published tokenizer with the checkpoint's own files on all probes and the whole vocabulary.

        A tokenizer of the same content as one before has the same result.
        """
        content = published.to_str()
        if content not in self._tokenizers:
            self._tokenizers[content] = check_tokenizer(self._checkpoint.anchor, published, self._texts)
        return self._tokenizers[content]

    def weights(self, stored: StoredGraph, precision: str) -> Check:
        """Derive every stored weight from a parameter of the checkpoint, and find every parameter.

        The parameters must still be those that were compared with the checkpoint's files.
        """
        check = check_weights(self._parameters, stored, precision)
        changed = self._checkpoint.changed_parameters()
        if not changed:
            return check
        told = f"{len(changed)} parameters were changed after they were compared with the files, the first is "
        return replace(check, failures=(f"{told}{changed[0]}", *check.failures))

    def dataflow(self, graph: Graph) -> Check:
        """Compare what every operator of a float32 graph reads with the rules."""
        padding_id = self._words.padding_idx
        padding_id = self._checkpoint.pad_token_id if padding_id is None else padding_id
        return check_dataflow(graph, padding_id, self._checkpoint.facts.heads)

    def lookup(self, graph: Graph) -> Check:
        """Look up every word vector with a float32 graph."""
        return check_lookup(graph.model, self._words.weight.detach().cpu().numpy(), graph.max_sequence)

    def operators(self, graph: Graph) -> tuple[Check, Check]:
        """Judge the operators of a float32 graph: what each reads, and which word vectors it finds."""
        return self.dataflow(graph), self.lookup(graph)

    @staticmethod
    def graph(proven: Graph, published: StoredGraph, target: Target) -> Check:
        """Compare the published operators with those of ``proven``, the folded graph after the target's passes."""
        return check_graph(as_read_by(target.backend, proven), published, target.precision)

    def prompts(self, encoder: Encoder | None, gate: Gate) -> tuple[Check, ...]:
        """Compare an encoder with the reference under every named prompt; nothing where there is only the default.

        Without an encoder the check says that nothing was compared.
        """
        if not named_prompts(self._checkpoint.facts):
            return ()
        if encoder is None or self._prompt_vectors is None:
            return (Check.skipped("prompts", "no engine ran"),)
        return (check_prompts(self._prompt_vectors, encoder, gate),)

    def sweep(
        self,
        encoder: Encoder,
        gate: Gate,
        precision: str,
        *,
        tables_proven: bool,
        lengths: bool,
        width_tokens: int = WIDTH_TOKENS,
    ) -> Check:
        """Sweep word rows, positions, batch sizes and padded widths.

        Args:
            encoder: The candidate.
            gate: Its bounds.
            precision: What it computes in.
            tables_proven: Whether ``weights`` has passed for it: then a sample of the word rows is enough.
            lengths: Whether its attention takes lengths instead of a mask, and right padding only.
            width_tokens: How many tokens may be spent on padded widths beyond those around boundaries.
        """
        return sweep(
            self._sweep_reference,
            encoder,
            self._shapes,
            gate,
            rows="sample" if tables_proven else "all",
            width_tokens=width_tokens,
            precision=Precision(precision),
            right_padding_only=lengths,
        )


def stored_graph(engine: Engine, read: Callable[[str], bytes]) -> StoredGraph | None:
    """Read what a published engine stores and computes; None for an engine whose files cannot be read (TensorRT).

    Args:
        engine: What the manifest says of it.
        read: Returns the content of one of its files.
    """
    match engine.backend, engine.files:
        case "onnxruntime", (model,):
            return read_onnx(read(model), model)
        case "onnxruntime", (model, weights):
            return read_onnx(read(model), model, read(weights))
        case "openvino", (xml, weights):
            return read_openvino(read(xml), read(weights), xml)
        case backend, files if backend.needs_gpu and files:
            return None
    raise BundleError(
        f"an engine of {engine.backend} has other files than {', '.join(engine.files)}", next_step="export it again"
    )


def as_read_by(reader: str, proven: Graph) -> StoredGraph:
    """Return the float32 graph that passed gate 1 as a published file is read, to compare the two.

    Args:
        reader: What the published file is read by: ``"openvino"`` for its IR, which has other operators.
        proven: The folded graph after the passes of the published one's target.
    """
    if reader == "openvino":
        with proven.as_file() as file:
            return read_onnx_by_openvino(file, proven.max_sequence)
    return read_onnx(proven.model, "the proven graph")


def tables_proven(checks: Sequence[Check], backend: Backend) -> bool:
    """Whether the weights check has compared the tables in a published engine: not where its file cannot be read."""
    return not backend.needs_gpu and any(check.name == "weights" and check.passed for check in checks)


def at_least_default(shapes: Shapes, backend: Backend) -> Shapes:
    """Return the shapes to sweep a published bundle by: its own, and no smaller batches than korsbert's default.

    A bundle states its shapes itself. Engines of TensorRT refuse other shapes, so theirs are taken as stated.
    """
    if backend.needs_gpu:
        return shapes
    default, own = Shapes().batch, shapes.batch
    largest = max(own.max, default.max)
    batch = Range(min=1, opt=min(max(own.opt, default.opt), largest), max=largest)
    return shapes.model_copy(update={"batch": batch})


def other_tools(tools: Mapping[str, str]) -> str | None:
    """Return which of the tools that fold a checkpoint have other versions here than a manifest names; None if none.

    Another version of torch may write the same model in other operators.
    """
    here = tool_versions(FOLDING_TOOLS)
    other = [
        f"{name} {tools.get(name)}, here {here.get(name)}"
        for name in FOLDING_TOOLS
        if tools.get(name) != here.get(name)
    ]
    return ", ".join(other) or None
