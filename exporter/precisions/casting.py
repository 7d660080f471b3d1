"""The conversion of the floating-point formats: one candidate, and nothing to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.precisions import Candidate, ConversionReport, ConversionRequest
from exporter.targets import Target
from exporter.validator import Reference


@dataclass(frozen=True)
class Cast:
    """A precision with one candidate: the graph cast to a floating-point format.

    Attributes:
        request: What the precision is asked for.
        convert: Returns the graph in the format.
        files: Returns what is added to a bundle, once the graph is converted: contents by file name.
    """

    request: ConversionRequest
    convert: Callable[[Graph, TokenBatches, tuple[str, ...]], Graph]
    files: Callable[[], Mapping[str, bytes]] = dict

    @property
    def hint(self) -> str:
        """What the user can do when the candidate has failed."""
        return "another precision or backend, or more of the graph in fp32 (recipe: precision.<name>.keep_fp32)"

    def candidates(self) -> Iterator[Candidate]:
        """Yield the graph in this precision."""
        request = self.request
        keep = getattr(request.recipe.precision, request.target.precision, None)
        yield Candidate(lambda: self._cast(keep.keep_fp32 if keep else ()))

    def _cast(self, keep_fp32: tuple[str, ...]) -> Graph:
        """Return the graph in this precision, and called so: a conversion may be shared by two precisions."""
        graph = self.convert(self.request.graph, self.request.text, keep_fp32)
        return graph.with_model(graph.model, precision=self.request.target.precision)

    def format_loss(self, reference: Reference) -> None:
        """Return nothing: PyTorch computes in this format itself (``validator.reference``)."""

    def explain(self) -> str:
        """Return nothing: there was no choice."""
        return ""

    def report(self) -> ConversionReport:
        """Return the files that the precision adds."""
        return ConversionReport(files=self.files())


def any_target(target: Target) -> None:
    """Accept every target: the backend checks whether it has kernels for a floating-point format."""
