"""Model cards: metadata that the Hugging Face Hub reads, and every figure of the report."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from exporter.bundle import Manifest
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


def card(
    made: Manifest, *scores: StsScore, modules: str = "", int8: dict[str, Any] | None = None, tokenizer: str = "BPE"
) -> str:
    report: Any = SimpleNamespace(
        verdicts=(Verdict("min cosine", 0.9999965, 0.9999, ">="),),
        checks=(Check("weights", "all of them"), Check("graph", "105 operators", ("a Relu is missing",))),
        sts=scores,
        statistics={"min_cosine": 0.9999964999, "mean_cosine": 0.99999912, "norm_bias": 1e-9},
        coverage="729 probes of 2 to 128 tokens",
        execution="CPUExecutionProvider",
    )
    return model_card(made, report, tokenizer=tokenizer, int8=int8, modules=modules)


def data_of(text: str) -> ModelCardData:
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    return data


def metadata_of(text: str) -> dict[str, Any]:
    metadata: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return metadata


SCORE = StsScore("korsts", 1500, 83.02, 83.046, 82.0, 82.0)


class TestMetadata:
    def test_names_the_checkpoint_the_license_and_the_engine(self) -> None:
        data = data_of(card(manifest()))
        assert data.library_name == "korsbert"
        assert data.pipeline_tag == "sentence-similarity"
        assert data.base_model == "owner/model"
        assert data.license == "apache-2.0"
        assert data.language == ["ko", "en"]
        assert data.tags == ["sentence-transformers", "feature-extraction", "onnx", "onnxruntime", "fp16"]

    def test_has_the_scores_of_this_bundle(self) -> None:
        data = data_of(card(manifest(), SCORE))
        assert data.eval_results is not None
        assert data.model_name == "demo"
        found = [(one.dataset_name, one.metric_type, one.metric_name, one.metric_value) for one in data.eval_results]
        assert found == [
            ("korsts", "spearman", "Spearman x100, this bundle", 83.05),
            ("korsts", "spearman", "Spearman x100, the checkpoint in PyTorch", 83.02),
            ("probes of korsbert", "min_cosine", "min cosine to PyTorch", 0.9999965),
            ("probes of korsbert", "mean_cosine", "mean cosine to PyTorch", 0.99999912),
        ]

    def test_has_no_results_of_an_engine_that_no_machine_has_run(self) -> None:
        pending = manifest().validation.model_copy(update={"state": "pending"})
        assert data_of(card(manifest(validation=pending), SCORE)).eval_results is None

    @pytest.mark.parametrize(("precision", "relation"), [("fp32", None), ("fp16", "quantized"), ("int8", "quantized")])
    def test_a_bundle_in_float32_is_no_quantized_model(self, precision: str, relation: str | None) -> None:
        engine = bundle_of("onnxruntime", precision).manifest.engine
        assert metadata_of(card(manifest(engine=engine))).get("base_model_relation") == relation

    @pytest.mark.parametrize(
        ("name", "stated"),
        [
            ("MIT", {"license": "mit"}),
            ("CC-BY-SA-4.0", {"license": "cc-by-sa-4.0"}),
            ("gemma", {"license": "gemma"}),
            ("Own-1.0", {"license": "other", "license_name": "own-1.0"}),
        ],
    )
    def test_the_license_is_one_that_the_hub_knows(self, name: str, stated: dict[str, str]) -> None:
        recipe = manifest().recipe.model_copy(update={"license": name})
        data = metadata_of(card(manifest(recipe=recipe)))
        assert {key: data[key] for key in ("license", "license_name") if key in data} == stated

    def test_many_languages(self) -> None:
        recipe = manifest().recipe.model_copy(update={"languages": ("mul",)})
        assert data_of(card(manifest(recipe=recipe))).language == ["multilingual"]

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
            "korsts (1500 pairs): Spearman 83.02 (PyTorch), 83.05 (this bundle).",
            "729 probes of 2 to 128 tokens, from string to vector on CPUExecutionProvider: never built.",
            'vectors = encoder.encode(["안녕하세요?", "한국어 문장입니다."])  # float32, (2, 256)',
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

    def test_says_which_int8_was_chosen(self) -> None:
        engine = {"min_cosine": 0.99412, "mean_cosine": 0.99743}
        emulated = {"min_cosine": 0.5, "mean_cosine": 0.6}
        int8 = {
            "candidates": [
                {"label": "A", "result": "rejected", "share_excluded": 0.02, "relative_time": 0.4, "engine": engine},
                {
                    "label": "B",
                    "result": "chosen",
                    "share_excluded": 0.1,
                    "relative_time": 0.5,
                    "engine": engine,
                    "emulated": emulated,
                },
            ],
            "matmuls": [{"precision": "int8"}, {"precision": "fp32"}],
            "calibration": {"held_out": 120},
            "scheme": {"fallback_dtype": "fp32"},
        }
        table = "| module | precision |\n|---|---|\n| layer 0 | int8 |\n"
        text = card(manifest(), modules=table, int8=int8)
        assert (
            "This bundle is candidate B: 1 of 2 MatMuls are in int8, and 10.0% of the multiplications are excluded"
            in text
        )
        assert "a min cosine of 0.9941 and a mean cosine of 0.9974 to float32" in text
        assert "2.00 times as fast as in fp32" in text
        assert "](int8.svg)\n" in text
        assert text.endswith(f"what was tried.\n\n{table}")
        assert "int8.json" not in card(manifest())

    def test_lists_the_published_scores_of_the_checkpoint(self) -> None:
        published = manifest().recipe.published
        text = card(manifest())
        assert [f"| {one.dataset} | {one.metric} | {one.value:.2f} |" in text for one in published] == [True] * len(
            published
        )
        bare = manifest().recipe.model_copy(update={"published": ()})
        assert "## Published scores" not in card(manifest(recipe=bare))


class TestCode:
    """What the code computes is tested with real bundles, in ``tests/integration/test_model_card.py``."""

    @pytest.mark.parametrize(
        ("backend", "device", "extra", "languages"),
        [
            ("onnxruntime", "cpu", "cpu", ["bash", "python", "bash", "python", "bash", "javascript"]),
            ("onnxruntime", "cuda", "gpu", ["bash", "python", "bash", "python"]),
            ("openvino", "cpu", "openvino", ["bash", "python", "bash", "python"]),
            ("tensorrt", "cuda", "tensorrt", ["bash", "python"]),
            ("tensorrt-rtx", "cuda", "tensorrt-rtx", ["bash", "python"]),
        ],
    )
    def test_every_engine_has_its_own(self, backend: str, device: str, extra: str, languages: list[str]) -> None:
        text = card(bundle_of(backend, "fp16", device).manifest)
        assert re.findall(r"^```(\w+)$", text, re.MULTILINE) == languages
        assert f"pip install 'korsbert[{extra}]'" in text
        assert (f'korsbert.load("demo-fp16-{backend}")') in text
        assert ("CUDAExecutionProvider" in text) is (device == "cuda" and backend == "onnxruntime")

    def test_a_prompt_and_a_dimension_are_those_of_the_checkpoint(self) -> None:
        encoder = manifest().encoder.model_copy(update={"prompt": 'say "it": ', "truncate_dim": 64})
        text = card(manifest(encoder=encoder))
        assert text.count('"say \\"it\\": " + text') == 2
        assert 'session.run(["sentence_embedding"], feeds)[0][:, :64]  # float32, (2, 64)' in text

    def test_no_javascript_for_a_tokenizer_that_it_reads_otherwise(self) -> None:
        text = card(manifest(), tokenizer="Unigram")
        assert "```javascript" not in text
        assert "does not give the ids of this bundle's tokenizer (Unigram)" in text
