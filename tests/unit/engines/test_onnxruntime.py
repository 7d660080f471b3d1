"""What of a graph fell to the CPU, by the session's own words; and runners that hold a graph's contract."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporter.engines import LEAST_RUNTIME, Engine, EngineFiles
from exporter.engines.cuda import Cuda
from exporter.engines.cuda_graphs import GRAPH_AFTER
from exporter.engines.facts import EngineFacts
from exporter.engines.onnxruntime import OnnxRuntimeCudaRunner, OnnxRuntimeRunner, nodes_on_the_cpu
from exporter.engines.onnxruntime import open as open_engine
from exporter.errors import EngineError, MissingDependencyError
from exporter.targets import FOLDED_OPSET, OLDEST_OPSET, Backend, Padding, Precision
from tests.support.fake_cuda import FakeDriver, array_at
from tests.support.graphs import model_of

ROOT = Path(__file__).parents[3]
SUM = """
g (int64[B,S] input_ids, int64[B,S] attention_mask) => (int64[B] sentence_embedding) <int64[1] axes = {1}> {
  kept = Mul(input_ids, attention_mask)
  sentence_embedding = ReduceSum<keepdims = 0>(kept, axes)
}
"""


def session_of(text: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    data = ir.to_proto(model_of(text)).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def test_nodes_are_told_as_onnxruntime_assigned_them() -> None:
    assignment = session_of(SUM).get_provider_graph_assignment_info()
    assert nodes_on_the_cpu(assignment, ()) == ["node.0/Mul (Mul)", "node.1/ReduceSum (ReduceSum)"]
    assert nodes_on_the_cpu(assignment, ("node.0/Mul",)) == ["node.1/ReduceSum (ReduceSum)"]


def test_nodes_elsewhere_have_not_fallen() -> None:
    nodes = [SimpleNamespace(name="a", op_type="MatMul")]
    on_gpu = SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: nodes)
    on_cpu = SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes)
    assert nodes_on_the_cpu([on_gpu], ()) == []
    assert nodes_on_the_cpu([on_gpu, on_cpu], ()) == ["a (MatMul)"]


def test_a_graph_that_takes_lengths_refuses_left_padding_before_it_runs() -> None:
    ids, mask = np.ones((1, 3), dtype=np.int64), np.array([[0, 1, 1]])
    with OnnxRuntimeRunner(session_of(SUM), right_padded=True) as runner:
        with pytest.raises(EngineError, match="padding before or between"):
            runner.run(ids, mask)
        assert runner.run(ids, mask[:, ::-1]).tolist() == [2]
    with OnnxRuntimeRunner(session_of(SUM)) as runner:
        assert runner.run(ids, mask).tolist() == [2]


@pytest.mark.parametrize(
    ("padding", "version", "least"),
    [("right", "1.24.4", "1.25"), ("right", "1.23.2", "1.25"), ("any", "1.22.1", "1.23"), ("right", "0.99", "1.25")],
)
def test_an_onnxruntime_that_answers_wrongly_is_refused_in_process(
    monkeypatch: pytest.MonkeyPatch, padding: str, version: str, least: str
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    with pytest.raises(MissingDependencyError) as caught:
        open_engine(engine_of(padding), EngineFiles(Path("bundle"), {}))
    assert caught.value.message.startswith(f"bundle: needs onnxruntime {least} or newer, and {version} is installed")
    assert caught.value.next_step == f"pip install 'onnxruntime>={least}'"


@pytest.mark.parametrize(
    ("padding", "version"), [("right", "1.25.0"), ("right", "2.0"), ("any", "1.23.0"), ("any", "1.24.4")]
)
def test_an_onnxruntime_that_is_new_enough_opens_the_model(
    monkeypatch: pytest.MonkeyPatch, padding: str, version: str
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    content = ir.to_proto(model_of(SUM)).SerializeToString()
    with open_engine(engine_of(padding), EngineFiles(Path("bundle"), {"model.onnx": content})) as runner:
        assert runner.execution == "CPUExecutionProvider"


def engine_of(padding: str) -> Engine:
    facts = EngineFacts(padding=Padding(padding), lengths=padding == "right")
    return Engine(backend=Backend.ONNXRUNTIME, precision=Precision.FP32, files=("model.onnx",), facts=facts)


def test_only_engines_of_onnxruntime_need_one() -> None:
    assert engine_of("right").model_copy(update={"backend": Backend.TENSORRT}).least_runtime is None


def test_padding_on_the_right_alone_needs_no_newer_one() -> None:
    """The first token by its position needs it too, and every version computes that."""
    facts = EngineFacts(padding=Padding.RIGHT)
    engine = Engine(backend=Backend.ONNXRUNTIME, precision=Precision.FP32, files=("model.onnx",), facts=facts)
    assert engine.least_runtime == "1.23"


def test_static_int8_needs_a_kernel_that_1_23_lacks() -> None:
    """As measured with the demo: benchmarks/results/oldest_onnxruntime.md."""
    engine = Engine(backend=Backend.ONNXRUNTIME, precision=Precision.INT8, files=("model.onnx",))
    assert engine.least_runtime == "1.24"
    assert engine.model_copy(update={"precision": Precision.INT8_DYNAMIC}).least_runtime == "1.23"


@pytest.mark.parametrize(
    ("opset", "fp32", "fp16"),
    [
        (17, "1.12", "1.12"),
        (18, "1.14", "1.17"),
        (19, "1.16", "1.17"),
        (20, "1.17", "1.17"),
        (21, "1.18", "1.18"),
        (22, "1.21", "1.21"),
        (23, "1.23", "1.23"),
    ],
)
def test_a_lower_opset_needs_an_older_one(opset: int, fp32: str, fp16: str) -> None:
    """As measured with the demo: the table of lower opsets in benchmarks/results/oldest_onnxruntime.md."""
    facts = EngineFacts(opset=opset)
    engine = Engine(backend=Backend.ONNXRUNTIME, precision=Precision.FP32, files=("model.onnx",), facts=facts)
    assert engine.least_runtime == fp32
    assert engine.model_copy(update={"precision": Precision.FP16}).least_runtime == fp16
    int8 = engine.model_copy(update={"precision": Precision.INT8}).least_runtime
    assert int8 == ("1.24" if opset == FOLDED_OPSET else fp32)
    # 1.14 to 1.18 crash on a LayerNormalization without a bias, as ModernBERT has.
    unbiased = engine.model_copy(update={"facts": EngineFacts(opset=opset, unbiased_norms=True)})
    assert unbiased.least_runtime == ("1.19" if opset < 22 else fp32)


def test_every_lower_opset_has_been_measured() -> None:
    results = ROOT / "benchmarks" / "results" / "oldest_onnxruntime.json"
    measured = json.loads(results.read_text(encoding="utf-8"))["lowered"]
    assert sorted(one["opset"] for one in measured) == list(LEAST_RUNTIME) == [*range(OLDEST_OPSET, FOLDED_OPSET)]
    for one in measured:
        for precision, tried in one["precisions"].items():
            first = next(found["onnxruntime"] for found in tried if found.get("passed"))
            facts = EngineFacts(opset=one["opset"])
            engine = Engine(
                backend=Backend.ONNXRUNTIME, precision=Precision(precision), files=("model.onnx",), facts=facts
            )
            assert engine.least_runtime == first.rpartition(".")[0], (one["opset"], precision)


class FakeSession:
    """A session on the CUDA provider whose graph sums the ids that the mask lets through; it takes addresses."""

    dimension = 2

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver
        self.runs = 0

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(shape=["batch", self.dimension])]

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self) -> Any:
        bound: dict[str, tuple[Any, ...]] = {}

        def bind(name: str, device: str, number: int, dtype: type, shape: tuple[int, ...], address: int) -> None:
            assert (device, number) == ("cuda", 0)
            bound[name] = (address, tuple(shape), dtype)

        return SimpleNamespace(bind_input=bind, bind_output=bind, bound=bound)

    def run_with_iobinding(self, binding: Any, options: onnxruntime.RunOptions) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.runs += 1
        bound = [binding.bound[name] for name in ("input_ids", "attention_mask", "sentence_embedding")]
        if bound[0][1][1] > 8:
            raise RuntimeError("[ONNXRuntimeError] : the Reshape of limit does not fit\nmore")

        def compute() -> None:
            ids, mask, vectors = (array_at(*place) for place in bound)
            vectors[:] = (ids * mask).sum(axis=1, keepdims=True)

        self._driver.enqueue(compute)


class TestCuda:
    def runner(self, driver: FakeDriver, **options: Any) -> OnnxRuntimeCudaRunner:
        cuda = Cuda(driver)
        cuda.enter()
        options = {"right_padded": True, "on_cpu": (), **options}
        self.session = FakeSession(driver)
        return OnnxRuntimeCudaRunner(self.session, cuda, cuda.create_stream(), **options)

    @staticmethod
    def check(runner: OnnxRuntimeCudaRunner, rows: int, tokens: int, seed: int = 0) -> None:
        ids = np.random.default_rng(seed).integers(1, 99, (rows, tokens))
        mask = np.ones_like(ids)
        mask[0, 1:] = 0
        found = runner.run(ids, mask)
        assert found.shape == (rows, 2)
        np.testing.assert_array_equal(found[:, 0], (ids * mask).sum(axis=1))

    def test_batches_of_any_size_go_through_buffers_that_stay(self) -> None:
        driver = FakeDriver()
        with self.runner(driver) as runner:
            for seed, shape in enumerate([(2, 3), (5, 8), (1, 1), (5, 8)]):
                self.check(runner, *shape, seed)
            assert driver.calls.count("cuMemAlloc_v2") == 6, "three buffers, made larger once"
        assert driver.memory == {}
        assert driver.held == 0

    def test_a_shape_that_recurs_is_captured_once_and_replayed(self) -> None:
        driver = FakeDriver()
        with self.runner(driver) as runner:
            self.check(runner, 8, 8)  # the largest, so that no buffer grows
            for seed in range(GRAPH_AFTER):
                self.check(runner, 2, 7, seed)
            before = self.session.runs
            assert driver.calls.count("cuStreamBeginCapture_v2") == 1
            for seed in range(4):
                self.check(runner, 2, 7, 100 + seed)
                self.check(runner, 7, 2, 100)  # another shape, in between: run, and captured
            assert self.session.runs == before + GRAPH_AFTER + 1
            assert driver.calls.count("cuStreamBeginCapture_v2") == 2
            assert len(runner.graphs) == 2
        assert driver.calls.count("cuGraphExecDestroy") == 2

    def test_buffers_that_grow_take_the_graphs_with_them(self) -> None:
        driver = FakeDriver()
        with self.runner(driver) as runner:
            for seed in range(GRAPH_AFTER + 1):
                self.check(runner, 2, 3, seed)
            self.check(runner, 8, 8)
            assert len(runner.graphs) == 0
            for seed in range(GRAPH_AFTER + 1):
                self.check(runner, 2, 3, 100 + seed)
            assert len(runner.graphs) == 1

    def test_a_graph_that_cannot_be_captured_is_run_piece_by_piece(self) -> None:
        driver = FakeDriver()
        driver.fails["cuGraphInstantiateWithFlags"] = 901
        with self.runner(driver) as runner:
            for seed in range(2 * GRAPH_AFTER):
                self.check(runner, 2, 3, seed)
            assert runner.graphs.refused is not None
        assert driver.calls.count("cuStreamBeginCapture_v2") == 1

    def test_what_fell_to_the_cpu_is_told(self) -> None:
        runner = self.runner(FakeDriver(), on_cpu=["a (MatMul)"])
        assert runner.execution == "CUDAExecutionProvider on Imagined GPU, 1 nodes on the CPU (a (MatMul))"
        assert runner.graphs.refused == "the CPU computes in the middle of a batch"
        assert self.runner(FakeDriver()).execution == "CUDAExecutionProvider on Imagined GPU"

    def test_a_refused_batch_is_one_sentence_and_leaves_the_runner_sound(self) -> None:
        runner = self.runner(FakeDriver())
        with pytest.raises(EngineError, match=r"refused a batch of \(1, 9\): .* does not fit$"):
            runner.run(np.ones((1, 9), dtype=np.int64), np.ones((1, 9), dtype=np.int64))
        assert runner.run(np.ones((1, 2), dtype=np.int64), np.ones((1, 2), dtype=np.int64)).tolist() == [[2, 2]]

    def test_left_padding(self) -> None:
        with pytest.raises(EngineError, match="padding before or between"):
            self.runner(FakeDriver()).run(np.ones((1, 2), dtype=np.int64), np.array([[0, 1]]))
