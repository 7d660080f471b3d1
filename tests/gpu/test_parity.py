"""Every parity gate of the five small twins and the demo, on the GPU; and that nothing falls to the CPU unseen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.dependencies import require
from exporter.engines import EngineFiles, backend_of
from exporter.engines.cuda import find_gpu
from exporter.engines.cuda_graphs import GRAPH_AFTER
from exporter.engines.onnxruntime import OnnxRuntimeCudaRunner
from exporter.errors import BuildError, BundleError, EngineError, MissingDependencyError
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.publication import record_validation
from exporter.targets import Backend, Device, Precision
from exporter.validation import validate_bundle
from tests.gpu.conftest import MODELS, Model

PRECISIONS = ("fp32", "fp16", "bf16")


def bundle_of(model: Model, name: str, precision: str, backend: str, out: Path, device: str = "cuda") -> Bundle:
    """Export, or skip where the backend says that this machine cannot."""
    recipe, folder = model(name)
    try:
        backend_of(backend).check(precision, "cuda")
    except MissingDependencyError as error:
        pytest.skip(error.message)
    options = ExportOptions(
        precision=Precision(precision), backend=Backend(backend), out=out, device=Device(device), checkpoint=folder
    )
    if backend != "tensorrt-rtx" or listed_for_tensorrt_rtx():
        return export(recipe, options)
    try:
        return export(recipe, options)
    except (BuildError, BundleError) as error:
        pytest.skip(f"TensorRT-RTX does not list this GPU, and says: {error.message}")


def listed_for_tensorrt_rtx() -> bool:
    """Whether TensorRT-RTX names the compute capability of this GPU among its targets."""
    gpu = find_gpu()
    assert gpu is not None
    return f"SM{gpu.compute_capability.replace('.', '')}" in require("tensorrt_rtx").ComputeCapability.__members__


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_passes_and_computes_all_of_it_on_the_gpu(
    model: Model, name: str, precision: str, tmp_path: Path
) -> None:
    bundle = bundle_of(model, name, precision, "onnxruntime", tmp_path)
    proven = bundle.manifest.validation
    assert (proven.state, proven.device) == ("passed", "cuda")
    assert proven.execution.startswith("CUDAExecutionProvider on ")
    assert "on the CPU" not in proven.execution
    lengths = [decision for decision in bundle.manifest.decisions if "attention_lengths" in decision]
    assert bool(lengths) == (precision != "fp32")
    assert bool(lengths) == any("split_heads_inside" in decision for decision in bundle.manifest.decisions)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
@pytest.mark.parametrize("name", MODELS)
def test_tensorrt_passes(model: Model, name: str, backend: str, precision: str, tmp_path: Path) -> None:
    bundle = bundle_of(model, name, precision, backend, tmp_path)
    proven = bundle.manifest.validation
    assert proven.state == "passed"
    assert "layers (" in proven.execution, "the engine inspector's summary"
    facts = bundle.manifest.engine.facts
    assert facts.compute_capability
    assert facts.driver


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt-rtx", "tensorrt"])
def test_shapes_in_any_order_and_again_and_again(model: Model, backend: str, tmp_path: Path) -> None:
    """Graph replay, buffers that stay and profiles must not change an answer: each is compared with itself alone."""
    bundle = bundle_of(model, "demo", "fp16", backend, tmp_path)
    texts = [("한강 공원에서 자전거를 탔다. " * repeat).strip() for repeat in (1, 2, 5, 12, 30)]
    with bundle.encoder() as encoder:
        alone = {text: encoder.encode_batch([text])[0] for text in texts}
        rng = np.random.default_rng(0)
        for _ in range(80):
            batch = [texts[number] for number in rng.integers(len(texts), size=rng.integers(1, 9))]
            for text, vector in zip(batch, encoder.encode_batch(batch), strict=True):
                error = np.linalg.norm(vector - alone[text]) / np.linalg.norm(alone[text])
                assert error < 1e-2  # the gate's own bound on fp16: vectors alone and in a batch


def test_onnxruntime_replays_cuda_graphs_to_the_last_bit(model: Model, tmp_path: Path) -> None:
    """Ids that a graph was not captured with, after batches of other shapes, on another thread too."""
    bundle = bundle_of(model, "demo", "fp16", "onnxruntime", tmp_path)
    engine = bundle.manifest.engine
    rng = np.random.default_rng(0)
    shapes = [(1, 5), (3, 17), (32, 32), (1, 64)]
    batches = [(shape, rng.integers(5, 2000, shape)) for _ in range(3 * GRAPH_AFTER) for shape in shapes]
    with backend_of("onnxruntime").open(engine, EngineFiles.read(engine, bundle.folder), "cuda", None) as runner:
        assert isinstance(runner, OnnxRuntimeCudaRunner)
        runner.run(np.full((40, 64), 7), np.ones((40, 64), dtype=np.int64))  # buffers grow, and never again
        replayed = [runner.run(ids, np.ones_like(ids)) for _, ids in batches]
        with ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(runner.run, batches[-1][1], np.ones_like(batches[-1][1])).result()
        assert runner.graphs.refused is None
        assert len(runner.graphs) == len(shapes)
        for (_, ids), found in zip(batches, replayed, strict=True):
            runner.graphs.clear()
            np.testing.assert_array_equal(found, runner.run(ids, np.ones_like(ids)))
        np.testing.assert_array_equal(elsewhere, replayed[-1])


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt-rtx", "tensorrt"])
def test_left_padding_is_refused_and_the_runner_goes_on(model: Model, backend: str, tmp_path: Path) -> None:
    bundle = bundle_of(model, "demo", "fp16", backend, tmp_path)
    engine = bundle.manifest.engine
    with backend_of(backend).open(engine, EngineFiles.read(engine, bundle.folder), "cuda", None) as runner:
        ids = np.full((2, 4), 7, dtype=np.int64)
        with pytest.raises(EngineError, match="padding before or between"):
            runner.run(ids, np.array([[1, 1, 1, 1], [0, 0, 1, 1]]))
        assert np.isfinite(runner.run(ids, np.array([[1, 1, 1, 1], [1, 1, 0, 0]]))).all()
        too_long = np.full((1, 300), 7, dtype=np.int64)
        with pytest.raises(EngineError):
            runner.run(too_long, np.ones_like(too_long))
        assert np.isfinite(runner.run(ids, np.ones_like(ids))).all()


def test_many_threads_take_turns(model: Model, tmp_path: Path) -> None:
    bundle = bundle_of(model, "demo", "fp16", "onnxruntime", tmp_path)
    with bundle.encoder() as encoder, ThreadPoolExecutor(8) as pool:
        texts = [f"문장 {number}번" for number in range(64)]
        alone = [encoder.encode_batch([text])[0] for text in texts]
        found = list(pool.map(lambda text: encoder.encode_batch([text])[0], texts))
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-3)


def test_an_engine_built_without_a_gpu_is_validated_here_and_recorded(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = model("demo")
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    with monkeypatch.context() as blind:
        blind.setattr("exporter.engines.tensorrt.build.find_gpu", lambda: None)
        options = ExportOptions(
            precision=Precision.FP16,
            backend=Backend.TENSORRT_RTX,
            out=tmp_path,
            checkpoint=folder,
            unvalidated=True,
        )
        bundle = export(recipe, options)
    assert not bundle.validated
    if not listed_for_tensorrt_rtx():
        with pytest.raises(BundleError, match="cannot open it"):
            validate_bundle(bundle, checkpoint=folder)
        return
    assert record_validation(bundle, validate_bundle(bundle, checkpoint=folder)).validated
    assert Bundle.open(bundle.folder).validated


def test_an_engine_of_another_gpu_is_refused_with_both_values(model: Model, tmp_path: Path) -> None:
    bundle = bundle_of(model, "demo", "fp16", "tensorrt-rtx", tmp_path)
    engine = bundle.manifest.engine.model_copy(
        update={"facts": bundle.manifest.engine.facts.model_copy(update={"compute_capability": "5.2"})}
    )
    with pytest.raises(exporter.BundleError, match=r"compute capability 5\.2 .* this machine has \d+\.\d"):
        backend_of("tensorrt-rtx").open(engine, EngineFiles.read(engine, bundle.folder), "cuda", None)
