"""A golden file of a stranger ends in answers that can be judged by, or in one sentence: never in another way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import load, save

from exporter.golden import Golden, GoldenFacts, read_golden, write_golden
from exporter.golden.judging import judge_function
from exporter.recipe import Gates, Source
from exporter.runtime.facts import EncoderFacts
from exporter.serving.expected import expected_of_golden
from exporter.targets import Precision
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare
from exporter.validator.prompts import PromptVectors, sampled
from tests.support.fuzzing import CASES, changed_bytes, changed_json, told_in_a_sentence, within_one_gibibyte

PROBES, DIMENSION = 100, 8
METADATA = "korsbert_golden"
VECTORS = np.random.default_rng(0).standard_normal((PROBES, DIMENSION)).astype(np.float32)


def sound() -> Golden:
    ids = [[2, number, 3] for number in range(PROBES)]
    texts = tuple((f"문장 {number}", "test") for number in range(PROBES))
    some = sampled([text for text, _ in texts])
    facts = GoldenFacts(
        recipe="demo",
        source=Source(checkpoint="demo/checkpoint", commit=None, weights_sha256="1" * 64, files={}),
        encoder=EncoderFacts(
            architecture="AlbertModel",
            modules=("Transformer", "Pooling"),
            pooling=("cls",),
            dimension=DIMENSION,
            max_seq_length=256,
            do_lower_case=True,
            prompts={"query": "질문: "},
            layers=1,
            heads=1,
            hidden_size=DIMENSION,
        ),
        gates=Gates(),
        truncate_dims=(4,),
        probes=texts,
        dtype="float32",
        losses={"fp16": "PyTorch in float16", "fp32": "PyTorch in float32"},
        tools={},
        machine={},
        created="2026-01-01T00:00:00+00:00",
    )
    loss = FormatLoss("PyTorch in float16", compare(VECTORS, VECTORS + np.float32(1e-4), ids))
    prompts = PromptVectors(some, {"query": VECTORS[: len(some)]}, VECTORS[: len(some)], VECTORS[: len(some)])
    return Golden(facts, VECTORS, ids, {"fp16": loss, "fp32": loss}, prompts)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("golden") / "sound.golden"
    write_golden(path, sound())
    judge(path)
    return path.read_bytes()


def judge(path: Path) -> None:
    """Read a golden file, and judge the sound vectors by it."""
    golden = read_golden(path)
    expected_of_golden(golden)

    def encode(texts: list[str]) -> np.ndarray:
        return np.resize(VECTORS, (len(texts), golden.facts.encoder.dimension))

    judge_function(encode, golden, Precision.FP16).to_json()


def test_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.golden"

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_bytes(content))
    def one(changed: bytes) -> None:
        path.write_bytes(changed)
        with told_in_a_sentence():
            judge(path)

    with within_one_gibibyte():
        one()


def test_any_facts_under_a_seal_that_agrees(content: bytes, tmp_path: Path) -> None:
    """Whoever writes a golden file can seal it."""
    path, tensors = tmp_path / "any.golden", load(content)
    length = int.from_bytes(content[:8], "little")
    stated = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][METADATA])

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json(stated))
    def one(facts: Any) -> None:
        path.write_bytes(save(tensors, {METADATA: json.dumps(sealed(facts))}))
        with told_in_a_sentence():
            judge(path)

    with within_one_gibibyte():
        one()


def sealed(facts: Any) -> Any:
    """Return facts with the seal that they need, if they are facts at all."""
    try:
        parsed = GoldenFacts.model_validate(facts)
    except (ValidationError, RecursionError):
        return facts
    return parsed.model_copy(update={"seal": parsed.expected_seal()}).model_dump(mode="json")


@settings(max_examples=CASES, derandomize=True)
@given(
    st.sampled_from(["vectors", "token_counts", "token_ids", "loss.fp16", "query"]),
    st.sampled_from(["float32", "float16", "float64", "int32"]),
    st.lists(st.integers(0, 200), min_size=0, max_size=3),
    st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf, 3e38]),
)
def test_any_tensor_under_hashes_that_agree(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, name: str, dtype: str, shape: list[int], value: float
) -> None:
    tensors = load(content)
    with np.errstate(invalid="ignore", over="ignore"):
        tensors[name] = np.full(shape, value).astype(dtype)
    facts = sound().facts.sealed(tensors)
    path = tmp_path_factory.getbasetemp() / "any.golden"
    path.write_bytes(save(tensors, {METADATA: facts.model_dump_json()}))
    with told_in_a_sentence():
        judge(path)
