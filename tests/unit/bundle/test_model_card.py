"""Model cards: metadata that the Hugging Face Hub reads, and every figure of the report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from exporter.bundle import Manifest, QuantizationFacts
from exporter.bundle.model_card import model_card
from exporter.recipe import Source
from exporter.validator import Check
from exporter.validator.gates import Verdict
from exporter.validator.sts import StsScore
from tests.support.served_bundles import bundle_of

COMMIT = "c" * 40


def manifest(**changes: Any) -> Manifest:
    made = bundle_of("onnxruntime", "fp16").manifest
    source = Source(checkpoint="owner/model", commit=COMMIT, weights_sha256="1" * 64, files={})
    return made.model_copy(update={"source": source, "tools": {"korsbert": "0.1.0"}, **changes})


def card(made: Manifest, *scores: StsScore, modules: str = "") -> str:
    report: Any = SimpleNamespace(
        verdicts=(Verdict("min cosine", 0.9999965, 0.9999, ">="),),
        checks=(Check("weights", "all of them"), Check("graph", "105 operators", ("a Relu is missing",))),
        sts=scores,
        coverage="729 probes of 2 to 128 tokens",
        execution="CPUExecutionProvider",
    )
    return model_card(made, report, modules)


def data_of(text: str) -> ModelCardData:
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    return data


SCORE = StsScore("korsts", 1500, 83.05, 83.046, 82.0, 82.0)


class TestMetadata:
    def test_names_the_checkpoint_the_license_and_the_engine(self) -> None:
        data = data_of(card(manifest()))
        assert data.library_name == "korsbert"
        assert data.pipeline_tag == "sentence-similarity"
        assert data.base_model == "owner/model"
        assert data.license == "apache-2.0"
        assert data.tags == ["sentence-transformers", "feature-extraction", "onnxruntime", "fp16"]
        assert data.eval_results is None

    def test_has_the_scores_of_this_bundle(self) -> None:
        data = data_of(card(manifest(), SCORE))
        assert data.eval_results is not None
        (result,) = data.eval_results
        assert (data.model_name, result.dataset_name, result.metric_type) == ("demo", "korsts", "spearman")
        assert result.metric_value == 83.05

    def test_names_no_base_model_for_a_folder(self) -> None:
        source = Source(checkpoint="demo/checkpoint", commit=None, weights_sha256="1" * 64, files={})
        recipe = manifest().recipe.model_copy(update={"license": None})
        data = data_of(card(manifest(source=source, recipe=recipe)))
        assert data.base_model is None
        assert data.license is None


class TestText:
    def test_has_every_figure(self) -> None:
        text = card(manifest(decisions=("3 modules stay in float32",)), SCORE)
        assert text.startswith("---\n")
        assert text.endswith("- 3 modules stay in float32\n")
        for line in (
            "# demo, fp16, onnxruntime",
            "License of the checkpoint: Apache-2.0",
            "| min cosine | 0.9999965 | >= 0.999900 |",
            "| weights | passed | all of them |",
            "| graph | FAILED | 105 operators |",
            "korsts (1500 pairs): Spearman 83.05 (PyTorch), 83.05 (this bundle).",
            "729 probes of 2 to 128 tokens, from string to vector on CPUExecutionProvider: never built.",
            'vectors = encoder.encode(["안녕하세요?", "한국어 문장입니다."])  # (2, 256) float32',
        ):
            assert line in text.splitlines()
        assert f"Made from `owner/model` at commit `{COMMIT}` by korsbert 0.1.0." in text
        assert "\n\n\n" not in text

    @pytest.mark.parametrize("right", [True, False])
    def test_says_where_padding_must_be(self, right: bool) -> None:
        made = bundle_of("onnxruntime", "fp16", padding="right" if right else "any").manifest
        assert ("Rows must be padded on the right" in card(made)) is right

    @pytest.mark.parametrize(
        ("state", "told"),
        [
            ("passed", "It was compared with the PyTorch checkpoint before it was published."),
            ("pending", "It was published before any machine had run it"),
        ],
    )
    def test_says_what_was_compared(self, state: str, told: str) -> None:
        made = manifest()
        assert told in card(manifest(validation=made.validation.model_copy(update={"state": state})))

    def test_lists_the_modules_of_an_int8_bundle(self) -> None:
        facts = QuantizationFacts(source="ships", sha256="0", sentences=560, method="mse", ranges="int8.json")
        table = "| module | precision |\n|---|---|\n| layer 0 | int8 |\n"
        text = card(manifest(quantization=facts), modules=table)
        assert text.endswith(f"`int8.svg` shows the other choices.\n\n{table}")
        assert "int8.json" not in card(manifest())

    def test_lists_the_published_scores_of_the_checkpoint(self) -> None:
        published = manifest().recipe.published
        text = card(manifest())
        assert [f"| {one.dataset} | {one.metric} | {one.value:.2f} |" in text for one in published] == [True] * len(
            published
        )
        bare = manifest().recipe.model_copy(update={"published": ()})
        assert "## Published scores" not in card(manifest(recipe=bare))
