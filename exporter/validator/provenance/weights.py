"""Weight provenance: every stored weight is a parameter of the checkpoint, and every parameter is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exporter.targets import Precision
from exporter.validator.check import Check
from exporter.validator.provenance.bias import Correction, correction_of
from exporter.validator.provenance.matching import Match, described, find
from exporter.validator.provenance.modules import belongs, module_of
from exporter.validator.provenance.parameter import Parameter, View
from exporter.validator.provenance.quantized import QuantizedMatMul, quantized_matmuls, quantized_tables
from exporter.validator.provenance.stored import Node, StoredGraph, Value, reached, stored_operand
from exporter.validator.provenance.tensors import FloatTensor, MatMulTensor, TableTensor, Tensor

# Precision -> the floating-point types that weights may be stored in.
FLOAT_TYPES: Mapping[str, tuple[str, ...]] = {
    "fp32": ("float32",),
    "fp16": ("float16", "float32"),
    "bf16": ("bfloat16", "float32"),
    "int8": ("float32", "float16"),
    "int8_dynamic": ("float32",),
}
_SMALL_INTEGERS = ("int8", "uint8", "int4", "uint4", "int16", "uint16")
_HALF_STEP = 0.501
_NAMED = 5  # failures that are named in full


def check_weights(parameters: Mapping[str, Parameter], graph: StoredGraph, precision: str) -> Check:
    """Derive every weight in a published file from a parameter, and find every parameter in the file.

    A floating-point tensor must be a parameter, its transpose, a reshape of it, a fixed row of it, or 1 more than it
    where the module adds 1, rounded to the stored type: bit for bit. An int8 tensor must be within half a step of one,
    smoothing undone. A bias behind an int8 MatMul may differ by a correction that rounding can explain (see ``bias``).
    A tensor that a module's nodes read must be a parameter of that module. A weight that the sentence vectors are not
    computed from is a failure: it proves nothing. Tensors of one number are scalars of the computation and left to
    ``check_graph``; so are integers, which index or state shapes.

    Args:
        parameters: What a sentence vector depends on, from ``dependent_parameters``.
        graph: The published file.
        precision: A key of ``FLOAT_TYPES``.
    """
    ledger = _Ledger(parameters, _unread(graph))
    quantized = Precision(precision).is_int8
    tables = quantized_tables(graph).values() if quantized else ()
    matmuls = quantized_matmuls(graph).values() if quantized else ()
    accounted: set[Value] = set()
    for table in tables:
        ledger.match(TableTensor(table), (table.node,))
        accounted.update(table.parts)
    found: dict[Value, _FoundMatMul] = {}
    for matmul in matmuls:
        weight = MatMulTensor(matmul)
        match = ledger.match(weight, (matmul.node,))
        if match.views:
            found[matmul.output] = _FoundMatMul(matmul, weight, match.views[0])
        accounted.update(part for part in (*matmul.weight.parts, matmul.inverse) if part is not None)
    for value in graph.stored:
        if value.size > 1 and value not in accounted:
            _match_stored(value, graph, precision, found, ledger)
    return ledger.check(sum(value.is_float and value.size == 1 and value not in accounted for value in graph.stored))


def _unread(graph: StoredGraph) -> list[str]:
    """Return one sentence per weight that is stored and does not take part in what the graph computes."""
    read = reached(graph)
    return [
        f"{value.name} ({value.dtype} {list(value.shape)}) is stored, and the sentence vectors are not computed from it"
        for value in graph.stored
        if value.size > 1 and value not in read and (value.is_float or value.dtype in _SMALL_INTEGERS)
    ]


@dataclass(frozen=True)
class _FoundMatMul:
    """An int8 MatMul, its weight, and the parameter that this was found to be."""

    matmul: QuantizedMatMul
    weight: MatMulTensor
    view: View


def _match_stored(
    value: Value, graph: StoredGraph, precision: str, found: Mapping[Value, _FoundMatMul], ledger: _Ledger
) -> None:
    """Match one tensor that is no part of an int8 weight: a parameter, or the corrected bias of an int8 MatMul."""
    if not value.is_float:
        if value.dtype in _SMALL_INTEGERS:
            shape = f"{value.dtype} {list(value.shape)}"
            ledger.problems.append(f"{value.name} ({shape}) is no part of a known quantization")
        return
    tensor, readers = FloatTensor(value), graph.readers.get(value, ())
    if value.dtype not in FLOAT_TYPES[precision]:
        ledger.problems.append(f"{described(tensor)} has a type that {precision} does not store")
        return
    before = [_product_before(node, value) for node in readers]
    corrected = [found[output] for output in before if output is not None and output in found]
    match = find(tensor, ledger.parameters.values())
    if match.views or not corrected or len(corrected) < len(readers):
        ledger.accept(match, tensor, readers)
        return
    for behind in corrected:
        ledger.correct(correction_of(value, behind.matmul, behind.weight, behind.view, ledger.parameters))


def _product_before(node: Node, bias: Value) -> Value | None:
    """Return the other term of the sum that reads ``bias``."""
    operands = stored_operand(node) if node.operator == "Add" else None
    return operands[0] if operands is not None and operands[1] is bias else None


@dataclass
class _Ledger:
    """Which weights have been found, and what is wrong.

    Attributes:
        parameters: By name.
        problems: One sentence each.
        found: Row (None for all) and kind by the parameter's name.
        corrections: Of biases.
        placed: How many tensors are read by nodes of the module that their parameter belongs to.
        largest_step: Largest distance of an int8 weight from its parameter, in steps.
        derived: How many stored weights are derived from their parameter by each step, such as ``"transpose"``.
    """

    parameters: Mapping[str, Parameter]
    problems: list[str]
    found: dict[str, dict[int | None, str]] = field(default_factory=dict)
    corrections: list[Correction] = field(default_factory=list)
    placed: int = 0
    largest_step: float = 0.0
    derived: Counter[str] = field(default_factory=Counter)

    def match(self, tensor: Tensor, readers: Iterable[Node]) -> Match:
        """Find the parameter of a tensor, and note it or what is wrong."""
        match = find(tensor, self.parameters.values())
        self.accept(match, tensor, readers)
        return match

    def accept(self, match: Match, tensor: Tensor, readers: Iterable[Node]) -> None:
        """Note what was found, unless a module reads a parameter of another one."""
        if match.problem is not None:
            self.problems.append(match.problem)
        modules = {module for node in readers if (module := module_of(node.name)) is not None}
        for module in sorted(modules):
            names_of_it = [name for view in match.views for name in (view.parameter.name, *view.parameter.aliases)]
            if match.views and not any(belongs(module, name) for name in names_of_it):
                names = " or ".join(view.parameter.name for view in match.views[:2])
                self.problems.append(f"{described(tensor)} is read by {module}, and it is {names}")
                return
        self.placed += bool(modules and match.views)
        self.largest_step = max(self.largest_step, match.largest_step)
        for view in match.views[:1]:
            self.derived[view.step] += view.values.size
        for view in match.views:
            self.found.setdefault(view.parameter.name, {}).setdefault(view.row, tensor.kind)

    def correct(self, correction: Correction) -> None:
        """Note the correction of a bias, and the bias as found."""
        self.corrections.append(correction)
        if correction.problem is not None:
            self.problems.append(correction.problem)
        elif correction.parameter is not None:
            self.found.setdefault(correction.parameter, {}).setdefault(None, "corrected")

    def check(self, scalars: int) -> Check:
        """Return the result."""
        kinds, missing = self._kinds()
        needed = sum(parameter.needed for parameter in self.parameters.values())
        problems = [*missing, *self.problems] if not self.problems else [*self.problems, *missing]
        failures = problems[:_NAMED]
        if len(problems) > _NAMED:
            failures.append(f"and {len(problems) - _NAMED} more")
        largest = max((correction.size for correction in self.corrections), default=0.0)
        figures = {
            "weights": needed,
            "found": sum(kinds.values()),
            "by_kind": dict(kinds),
            "by_step": dict(self.derived),
            "tensors_read_by_their_module": self.placed,
            "scalars": scalars,
            "largest_step": self.largest_step,
            "bias_corrections": len(self.corrections),
            "largest_bias_correction": largest,
            "largest_bias_correction_of_allowed": max((c.share for c in self.corrections), default=0.0),
        }
        return Check("weights", self._coverage(kinds, needed), tuple(failures), figures)

    def _kinds(self) -> tuple[Counter[str], list[str]]:
        """Return how many weights were found by kind, and which parameters were not."""
        kinds: Counter[str] = Counter()
        missing = []
        for name, parameter in self.parameters.items():
            if parameter.computed:
                continue
            found = self.found.get(name, {})
            if None in found:
                kinds[found[None]] += parameter.needed
                continue
            rows = [row for row in parameter.rows or () if row in found]
            for row in rows:
                kinds[found[row]] += int(parameter.values[row].size)
            if parameter.rows is None or len(rows) < len(parameter.rows):
                missing.append(
                    f"{name} {list(parameter.values.shape)}, which sentence vectors depend on, is not stored"
                )
        return kinds, missing

    def _coverage(self, kinds: Counter[str], needed: int) -> str:
        rounded = " and the rounding of its scales" if self.largest_step > _HALF_STEP else ""
        said = {
            "float16": "exactly rounded to float16",
            "bfloat16": "exactly rounded to bfloat16",
            "int8": f"within half a step of int8{rounded} (largest {self.largest_step:.2f} step)",
            "float32": "bit for bit",
            "corrected": "in corrected biases",
        }
        parts = [f"{kinds[kind]:,} {text}" for kind, text in said.items() if kinds[kind]]
        if self.corrections:
            parts[-1] += f" (by {max(correction.size for correction in self.corrections):.2g} at most)"
        sentence = f"{sum(kinds.values()):,} of {needed:,} weights accounted for"
        if len(kinds) == 1:
            return f"{sentence}, {said[next(iter(kinds))]}"
        return f"{sentence}: {', '.join(parts)}" if parts else sentence
