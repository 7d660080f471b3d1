"""int8 as a conversion: calibrate, search, and try the assignments that were found on held-out text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from exporter.bundle import QuantizationFacts
from exporter.calibration import TokenBatches, calibration_set
from exporter.dependencies import require
from exporter.errors import GateError
from exporter.graph import Graph
from exporter.precisions import Candidate, ConversionReport, ConversionRequest
from exporter.precisions.int8.plan import Plan, Request, make_plan
from exporter.precisions.int8.report import JSON, PLOT, Tried, candidates_table, plot_of, report_of, table_of
from exporter.precisions.int8.scheme import Array, scheme_of
from exporter.precisions.int8.search import Assignment, describe
from exporter.recipe import Gate
from exporter.runtime.runner import Runner
from exporter.runtime.token_encoder import encoder_batches
from exporter.runtime.tokens import TextTokenizer
from exporter.targets import Target
from exporter.validator import Reference
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare

Convert = Callable[[Plan, Assignment, TokenBatches], Graph]


def check(target: Target) -> None:
    """Refuse a target without int8 kernels, before any work."""
    scheme_of(target.precision, target.backend, target.device)
    require("matplotlib", "report")


def prepare(request: ConversionRequest, convert: Convert) -> Int8Conversion:
    """Calibrate, and search for assignments. Results so far are kept in ``request.ledger``."""
    target, recipe = request.target, request.recipe
    if request.ledger is not None:
        request.stages.keeps.append(request.ledger)
    with request.stages("calibrate and search") as stage:
        text = calibration_set(request.calibration, request.probes, request.tokenizer, request.prompt)
        for warning in text.warnings:
            request.stages.warn(warning)
        wanted = Request(
            scheme=scheme_of(target.precision, target.backend, target.device),
            calibration=text,
            gate=recipe.gates.of(target.precision),
            exclude=getattr(recipe.precision, target.precision).exclude,
            ledger=request.ledger,
        )
        plan = make_plan(request.graph, wanted, request.stages.progress)
        stage.result = plan.summary()
    return Int8Conversion(request, plan, convert)


@dataclass
class Int8Conversion:
    """A plan, and the assignments that were built so far.

    Attributes:
        request: What int8 is asked for.
        plan: Scales, and the assignments to try.
        convert: Writes an assignment into the graph.
        tried: The assignments that were built, with their loss on held-out text; the last one is the current candidate.
    """

    request: ConversionRequest
    plan: Plan
    convert: Convert
    tried: list[Tried] = field(default_factory=list)
    hint: str = "calibration text of the kind that the model will read, or precision fp16"

    @property
    def gate(self) -> Gate:
        """The bounds."""
        return self.plan.request.gate

    def candidates(self) -> Iterator[Candidate]:
        """Yield the assignments until the engine of one passes on held-out text with a margin.

        If none does, the one that loses least is yielded again, if it passes without the margin. The probes have no
        part in it.

        Raises:
            GateError: No engine passes on held-out text.
        """
        for assignment in self.plan.found.candidates:
            yield Candidate(self._converter(assignment), self._comparer(assignment))
            if self.tried[-1].loss.passes(self.gate):
                return
        nearest = min(self.tried, key=lambda one: one.loss.budget_used(self.gate))
        self.tried.remove(nearest)
        self.tried.append(nearest)
        if nearest.loss.budget_used(self.gate) > 1:
            raise GateError(
                f"{self.request.subject}: no engine passes on held-out calibration text{self.explain()}",
                report={"tried": [asdict(one.loss) for one in self.tried]},
                next_step=self.hint,
            )
        yield Candidate(self._converter(nearest.assignment))

    def _converter(self, assignment: Assignment) -> Callable[[], Graph]:
        return lambda: self.convert(self.plan, assignment, self.request.text)

    def _comparer(self, assignment: Assignment) -> Callable[[Runner], str]:
        def compare_vectors(runner: Runner) -> str:
            loss = self.plan.loss_of(runner.run)
            self.tried.append(Tried(assignment, loss))
            return str(loss)

        return compare_vectors

    def format_loss(self, reference: Reference) -> FormatLoss | None:
        """Return what int8 should answer to the probes, in the batches that an encoder makes of them.

        The emulator computes in float32 what is not int8. Where that is float16, its loss would be too small, and None
        is returned.
        """
        if self.plan.request.scheme.fallback_dtype != "fp32":
            return None
        rows, tokenizer = reference.token_ids, TextTokenizer(self.request.tokenizer)
        batches = list(encoder_batches([len(row) for row in rows]))
        assignment = self.tried[-1].assignment

        def emulate(plan: Plan) -> Array:
            vectors = np.empty_like(reference.vectors)
            padded = (tokenizer.pad([rows[row] for row in batch]) for batch in batches)
            vectors[np.concatenate(batches)] = plan.emulate(assignment, padded)
            return vectors

        emulated = emulate(self.plan)
        parity = compare(reference.vectors, emulated, rows)
        return FormatLoss("the emulator of int8", parity, emulated, lambda: emulate(self.plan.rounded_up()))

    def explain(self) -> str:
        """Return every assignment that was built, with its loss on held-out text, one line each."""
        scheme = self.plan.request.scheme
        lines = [
            f"built with {one.assignment.share:.1%} of the work in {scheme.fallback_dtype}: {one.loss}"
            for one in self.tried
        ]
        nearest = describe(scheme, self.tried[-1].assignment, self.plan.matmuls)
        lines.append(f"the closest of {len(self.tried)}: {nearest}")
        lines += [f"calibration text: {warning}" for warning in self.plan.request.calibration.warnings]
        return "".join(f"\n  {line}" for line in lines)

    def report(self) -> ConversionReport:
        """Return int8.json, int8.svg, the facts for the manifest, and the tables for the model card."""
        assignment, text = self.tried[-1].assignment, self.plan.request.calibration
        said = report_of(self.plan, self.tried)
        content = json.dumps(said, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        return ConversionReport(
            files={JSON: content.encode(), PLOT: plot_of(said)},
            quantization=QuantizationFacts(
                source=text.source,
                sha256=text.sha256,
                sentences=text.fit.count,
                method=self.plan.calibrated.trial.name,
                ranges=JSON,
            ),
            modules=f"{candidates_table(said)}\n{table_of(self.plan, assignment)}",
        )
