"""Whole exports through every gate: small twins, and the real weights that can be had."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import exporter
from exporter.bundle import Bundle
from exporter.calibration import audit_text, measured_sentences
from exporter.checkpoint import load_checkpoint
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.recipe import Recipe, find_recipe
from exporter.runtime.contract import INPUTS, OUTPUT
from exporter.targets import Backend, Precision
from exporter.validation import validate_bundle
from exporter.validator.probes import SHIPPED, probes_for
from tests.support.twins import MEASURED, MULTILINGUAL, TWINS, build_twin

KOREAN = ["김치찌개는 신김치로 끓여야 제맛이다.", "내일 오전에 비가 그치면 출발합시다.", "정산 오류가 또 났어요."]

OTHERS = tuple(name for name in (*TWINS, *MULTILINGUAL) if name not in MEASURED)
# One twin of each architecture and tokenizer, and each engine.
TWIN_EXPORTS = [
    *((name, "fp16", "onnxruntime") for name in ("albert-small", "moco-distilbert", "klue-sroberta")),
    *((name, "fp16", "onnxruntime") for name in ("multilingual-e5-small", "bge-m3-ko")),
    *((name, "fp16", "onnxruntime") for name in ("qwen3-embedding-0.6b", "embeddinggemma-300m")),
    ("ko-sbert-sts", "fp32", "onnxruntime"),
    ("ko-sbert-multitask", "bf16", "openvino"),
]
# The others at fp16, and those of the benchmarks at fp32 too.
MORE_EXPORTS = [
    *((name, "fp16", "onnxruntime") for name in (*MEASURED, *OTHERS)),
    *((name, "fp32", "onnxruntime") for name in MEASURED),
    ("klue-sroberta", "fp32", "openvino"),
    ("moco-distilbert", "bf16", "openvino"),
]
ALL_EXPORTS = [
    *TWIN_EXPORTS,
    *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_EXPORTS if case not in TWIN_EXPORTS),
]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("twins")
    return {name: build_twin(name, folder / name) for name in (*MEASURED, *OTHERS)}


@pytest.mark.parametrize(("name", "precision", "backend"), ALL_EXPORTS)
def test_a_twin_meets_its_recipe_and_passes_its_gates(
    twins: dict[str, Path], tmp_path: Path, name: str, precision: str, backend: str
) -> None:
    recipe = recipe_of_small(name, twins[name])
    options = ExportOptions(
        precision=Precision(precision), backend=Backend(backend), out=tmp_path, checkpoint=twins[name]
    )
    bundle = export(recipe, options)
    parity = json.loads((bundle.folder / "parity.json").read_text(encoding="utf-8"))
    assert parity["passed"]
    assert len(parity["rows"]) >= 640
    assert {verdict["name"] for verdict in parity["verdicts"]} >= {"min cosine", "neighbor identity"}


def recipe_of_small(name: str, folder: Path) -> Recipe:
    """A small twin differs from its recipe in its width and in the limit that it states, and in nothing else of it."""
    recipe = find_recipe(name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed: dict[str, object] = {"dimension": config.get("hidden_size") or config["dim"]}
    shapes = recipe.shapes
    if name in MULTILINGUAL:
        changed["max_seq_length"] = MULTILINGUAL[name].small_max_seq_length
        shapes = shapes.model_copy(update={"sequence": None})
    expect = recipe.expect.model_copy(update=changed)
    return recipe.model_copy(update={"known_answer": None, "expect": expect, "shapes": shapes})


def test_fp16_audits_the_users_text_and_no_probe(twins: dict[str, Path], tmp_path: Path) -> None:
    own = ["우체국은 여섯 시에 문을 닫습니다.", "소포가 사흘째 오지 않는다."]
    probe = json.loads(SHIPPED.read_text(encoding="utf-8").splitlines()[0])["text"]
    text = tmp_path / "own.txt"
    text.write_text("\n".join([*own, probe]), encoding="utf-8")
    bundle = exporter.export(
        str(twins["ko-sbert-multitask"]), precision="fp16", calibration=text, out=tmp_path / "bundles"
    )
    tokenizer, decisions = _tokenizer_of(bundle), " ".join(bundle.manifest.decisions)
    probes = [probe.text for probe in probes_for(tokenizer, bundle.manifest.encoder.max_seq_length)]
    sentences = measured_sentences(text, probes)
    audited = audit_text(sentences, tokenizer, "")
    assert probe in probes
    assert sentences[-2:] == tuple(own)
    assert f"over {audited.count} sentences" in decisions
    assert audited.content_hash() in decisions


def _tokenizer_of(bundle: Bundle) -> Tokenizer:
    return Tokenizer.from_file(str(bundle.folder / "tokenizer.json"))


def test_minilm_with_real_weights(minilm_fp16: Path) -> None:
    bundle = Bundle.open(minilm_fp16)
    assert bundle.manifest.encoder.modules == ("Transformer", "Pooling", "Normalize")
    with bundle.encoder() as encoder:
        vectors = encoder.encode(["A man is playing the flute.", "Someone plays a flute.", "The stock market fell."])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert vectors[0] @ vectors[1] > 0.8
    assert vectors[0] @ vectors[2] < 0.3


@pytest.fixture(scope="module")
def demo(demo_fp16: Path) -> Bundle:
    return Bundle.open(demo_fp16)


def test_demo_with_real_weights(demo: Bundle) -> None:
    checkpoint = load_checkpoint(find_recipe("demo"))
    with demo.encoder() as encoder:
        found, wanted = encoder.encode(KOREAN), checkpoint.encode(KOREAN)
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.9999


def test_a_bundle_says_what_it_is(demo: Bundle) -> None:
    manifest = demo.manifest
    assert manifest.engine.precision == "fp16"
    assert manifest.validation.execution == "CPUExecutionProvider"
    assert "korsbert validate" in manifest.validation.note
    assert {"torch", "transformers", "onnxruntime", "korsbert"} <= set(manifest.tools)
    assert set(manifest.files) == {path.name for path in demo.folder.iterdir()} - {"manifest.json"}
    assert any("largest activation" in decision for decision in manifest.decisions)
    card = (demo.folder / "README.md").read_text(encoding="utf-8")
    assert "| min cosine |" in card
    assert "KorSTS dev" in card


def test_the_graph_in_a_bundle_keeps_its_contract(demo: Bundle) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(demo.folder / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        (name, "tensor(int64)", ["batch", "sequence"]) for name in INPUTS
    ]
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape) == (OUTPUT, "tensor(float)", ["batch", 256])


def test_transformers_reads_the_bundle_s_tokenizer_and_gets_the_same_ids(demo: Bundle) -> None:
    from transformers import AutoTokenizer

    long = KOREAN[0] * 60
    ours = Tokenizer.from_file(str(demo.folder / "tokenizer.json")).encode(long).ids
    theirs = AutoTokenizer.from_pretrained(demo.folder)(long, truncation=True)["input_ids"]
    assert ours == theirs
    assert len(ours) == 256


def test_validating_again_repeats_the_verdict_and_scores_a_task(demo: Bundle, tmp_path: Path) -> None:
    sts = tmp_path / "own.csv"
    pairs = zip(KOREAN, [*KOREAN[1:], "정산이 또 잘못됐습니다."], [0.5, 1.0, 4.5], strict=True)
    sts.write_text("".join(f'"{a}","{b}",{score}\n' for a, b, score in pairs), encoding="utf-8")
    report = validate_bundle(demo, sts=[sts])
    assert report.passed
    assert report.statistics["min_cosine"] == pytest.approx(demo.manifest.validation.min_cosine, abs=1e-7)
    (score,) = report.sts
    assert score.candidate_spearman == pytest.approx(score.reference_spearman)
    assert "Spearman drop on own.csv" in {verdict.name for verdict in report.verdicts}
