"""What sentence-transformers' evaluators store beside a model: they write their metrics into its model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EvaluationResults:
    """Takes the place of a SentenceTransformer's ``model_card_data`` in evaluators; no card is written from it.

    Attributes:
        eval_results_dict: The metrics by evaluator.
    """

    def __init__(self) -> None:
        self.eval_results_dict: dict[Any, dict[str, Any]] = {}

    def set_evaluation_metrics(
        self,
        evaluator: Any,
        metrics: Mapping[str, Any],
        epoch: int = 0,  # noqa: ARG002 - evaluators pass where training stands
        step: int = 0,  # noqa: ARG002
    ) -> None:
        """Keep the metrics of an evaluator, in place of those of an earlier run."""
        self.eval_results_dict[evaluator] = dict(metrics)
