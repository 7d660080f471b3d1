"""What TensorRT-RTX refuses comes as one sentence that names the node; engines of elsewhere, with both values."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest

from exporter.engines import BuildOptions, Engine, EngineFiles, refuse_idle_options
from exporter.engines.cuda import Cuda, Gpu, find_gpu
from exporter.engines.facts import EngineFacts
from exporter.engines.tensorrt.build import LOG, TENSORRT, TENSORRT_RTX, TensorRt, refuse_elsewhere
from exporter.engines.tensorrt.profiles import Profile
from exporter.errors import BuildError, BundleError, InputError, MissingDependencyError
from exporter.graph import Graph
from exporter.recipe import Shapes
from exporter.targets import Backend, Precision
from tests.support.fake_cuda import FakeDriver

RTX_REASON = "tensorrt-rtx-cu13 is not installed (make .venv/ready installs it where there is a wheel)"

GRAPH = """
g (int64[batch,sequence] input_ids, int64[batch,sequence] attention_mask)
=> (float[batch,sequence] sentence_embedding) {
  ids = Cast<to = 1>(input_ids)
  mask = Cast<to = 1>(attention_mask)
  BODY
}
"""
REFUSED = {
    "an operator of another domain": (
        "a = com.microsoft.FastGelu(ids)\n sentence_embedding = Mul(a, mask)",
        r"layer\.0/FastGelu \(FastGelu\)",
    ),
    "a sum of two types": (
        "half = Cast<to = 10>(mask)\n b = Cast<to = 10>(ids)\n a = Add(b, mask)\n sentence_embedding = Cast<to = 1>(a)",
        r"layer\.0/Add \(Add\).*(Half|Float)",
    ),
    "asymmetric uint8": (
        "scale = Constant<value_float = 0.1>()\n zero = Constant<value = uint8 {3}>()\n"
        "q = QuantizeLinear(ids, scale, zero)\n a = DequantizeLinear(q, scale, zero)\n"
        "sentence_embedding = Mul(a, mask)",
        r"layer\.0/QuantizeLinear \(QuantizeLinear\).*zero",
    ),
}
GPU = Gpu("NVIDIA H100", "9.0", "580.95.05", "13.0", 80 * 2**30)


def graph_of(body: str) -> Graph:
    text = GRAPH.replace("BODY", body)
    return Graph(_untyped_model(text), dimension=8, max_sequence=64)


def _untyped_model(text: str) -> ir.Model:
    """Parse a graph that no checker accepts: its faults are what the test is about."""
    import onnx

    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]> {text}')
    for node in proto.graph.node:
        node.name = f"layer.0/{node.op_type}"
    model: ir.Model = ir.from_proto(proto)
    return model


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_parser_refuses_names_the_node(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx", reason=RTX_REASON)
    body, told = REFUSED[case]
    with pytest.raises(BuildError, match=f"tensorrt-rtx cannot build the graph: {told}"):
        TENSORRT_RTX.build(graph_of(body), Shapes(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {LOG}
    assert capfd.readouterr() == ("", ""), "the builder's log goes to its file"


def test_lengths_that_the_network_has_no_attention_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason=RTX_REASON)
    monkeypatch.setattr("exporter.engines.tensorrt.build.lengths_wanted", lambda _: 2)
    with pytest.raises(BuildError, match="2 attentions of the graph take lengths, and 0 of the network came"):
        TENSORRT_RTX.build(graph_of("sentence_embedding = Mul(ids, mask)"), Shapes(), tmp_path)


def test_one_process_builds_for_one_of_the_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason=RTX_REASON)
    TENSORRT_RTX.build(graph_of("sentence_embedding = Mul(ids, mask)"), Shapes(), tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0"))
    with pytest.raises(BuildError, match="this process already uses another TensorRT than tensorrt"):
        TENSORRT.build(graph_of("sentence_embedding = Mul(ids, mask)"), Shapes(), tmp_path)


def test_progress_is_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason=RTX_REASON)
    told: list[str] = []
    graph = graph_of("sentence_embedding = Mul(ids, mask)")
    TENSORRT_RTX.build(graph, Shapes(), tmp_path, BuildOptions(on_progress=told.append))
    assert any(text[0].isalpha() and text.rpartition(" ")[2].partition("/")[2].isdigit() for text in told), told


class OnTheOtherModule(TensorRt):
    """TensorRT's own lines, run on the API that the two share: ``tensorrt`` itself needs a GPU to build."""

    is_rtx = False


def test_the_options_of_tensorrt_reach_its_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason=RTX_REASON)
    configured: list[tuple[object, ...]] = []

    def note(asked: Any, *arguments: object) -> object:
        config = inspect_config(asked, *arguments)
        limit = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        configured.append((asked.hardware_compatibility_level, limit, config.num_optimization_profiles))
        assert not config.get_flag(trt.BuilderFlag.TF32)
        return config

    polygraphy = OnTheOtherModule("tensorrt", "tensorrt_rtx")
    monkeypatch.setattr(OnTheOtherModule, "_polygraphy", lambda _: TENSORRT_RTX._polygraphy())
    create = TENSORRT_RTX._polygraphy().CreateConfig
    inspect_config = create.call_impl
    monkeypatch.setattr(create, "call_impl", note)
    cache = tmp_path / "timings"
    options = BuildOptions(workspace_mib=96, hardware_compatible=True, timing_cache=cache)
    for _ in range(2):  # the second reads what the first wrote
        polygraphy.build(graph_of("sentence_embedding = Mul(ids, mask)"), Shapes(), tmp_path, options)
        assert cache.is_file()
    assert configured == [(trt.HardwareCompatibilityLevel.AMPERE_PLUS, 96 << 20, 2)] * 2


def test_an_interrupt_ends_the_build(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason=RTX_REASON)
    before = signal.getsignal(signal.SIGINT)
    told: list[str] = []

    def interrupt(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    graph = graph_of("sentence_embedding = Mul(ids, mask)")
    with pytest.raises(KeyboardInterrupt):
        TENSORRT_RTX.build(graph, Shapes(), tmp_path, BuildOptions(on_progress=interrupt))
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "model.engine").exists()


def test_an_engine_that_the_runtime_refuses_is_one_sentence_with_its_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the driver is an imagined one, so the real runtime finds no GPU: it must say so, and not crash."""
    pytest.importorskip("tensorrt_rtx", reason=RTX_REASON)
    if find_gpu() is not None:
        pytest.skip("there is a GPU here, which would open the engine")
    engine = TENSORRT_RTX.build(graph_of("sentence_embedding = Mul(ids, mask)"), Shapes(), tmp_path)
    driver = FakeDriver()
    monkeypatch.setattr("exporter.engines.tensorrt.build.Cuda.load", lambda: Cuda(driver))
    told = r"cannot open it; it was built with .* and no GPU at hand: .*Cuda"
    with pytest.raises(BundleError, match=told) as failure:
        TENSORRT_RTX.open(engine, EngineFiles.read(engine, tmp_path))
    assert "Imagined GPU (compute capability 9.0" in failure.value.message
    assert driver.held == 0
    with pytest.raises(MissingDependencyError, match="run on a GPU, not on cpu"):
        TENSORRT_RTX.open(engine, EngineFiles.read(engine, tmp_path), "cpu")


class TestMissing:
    def test_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
        with pytest.raises(MissingDependencyError, match="tensorrt_rtx is not installed") as failure:
            TENSORRT_RTX.check_build("fp16", "cuda")
        assert failure.value.next_step == "pip install 'korsbert[tensorrt-rtx]'"

    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
        def install(gpu: object) -> None:
            for module in ("tensorrt", "tensorrt_rtx"):
                monkeypatch.setitem(sys.modules, module, SimpleNamespace(__version__="11.0"))
            monkeypatch.setattr("exporter.engines.tensorrt.build.find_gpu", lambda: gpu)

        return install

    def test_a_gpu_to_run_on(self, installed: Callable[[object], None]) -> None:
        installed(None)
        TENSORRT_RTX.check_build("fp16", "cuda")
        with pytest.raises(MissingDependencyError, match="none here, so the gate cannot be judged") as failure:
            TENSORRT_RTX.check("fp16", "cuda")
        assert failure.value.exit_code == 3
        assert "`unvalidated`" in str(failure.value.next_step)

    def test_a_gpu_to_build_on(self, installed: Callable[[object], None]) -> None:
        installed(None)
        with pytest.raises(MissingDependencyError, match="tensorrt builds an engine on the GPU"):
            TENSORRT.check_build("fp16", "cuda")
        installed(GPU)
        TENSORRT.check("fp16", "cuda")

    def test_a_cpu_does_not_do(self, installed: Callable[[object], None]) -> None:
        installed(GPU)
        with pytest.raises(MissingDependencyError, match="run on a GPU, not on cpu"):
            TENSORRT.check("fp16", "cpu")

    @pytest.mark.parametrize(
        ("module", "missing"),
        [
            (SimpleNamespace(), {"Attention"}),
            (SimpleNamespace(IAttention=SimpleNamespace(mask=None)), {"nonpad_kv_seqlen"}),
            (SimpleNamespace(IAttention=SimpleNamespace(mask=None, key_value_lengths=None)), set()),
        ],
        ids=["10.12", "10.14", "11"],
    )
    def test_operators_of_older_versions(
        self, monkeypatch: pytest.MonkeyPatch, module: object, missing: set[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        assert TENSORRT.missing_operators() == missing


class TestElsewhere:
    def engine(self, **facts: object) -> Engine:
        built = EngineFacts(
            version="10.13.2",
            compute_capability="8.9",
            gpu="NVIDIA L4",
            driver="570.1",
            profiles=(Profile((1, 2, 3), (4, 5, 6)),),
        )
        return Engine(
            backend=Backend.TENSORRT,
            precision=Precision.FP16,
            files=("model.engine",),
            facts=built.model_copy(update=facts),
        )

    def test_another_version(self) -> None:
        with pytest.raises(BundleError, match=r"built with tensorrt 10\.13\.2, and this machine has 11\.0"):
            refuse_elsewhere(self.engine(), Path("model.engine"), "11.0", GPU)

    def test_another_gpu(self) -> None:
        told = (
            r"compute capability 8\.9 \(NVIDIA L4, driver 570\.1\), and this machine has 9\.0 \(NVIDIA H100, driver 580"
        )
        with pytest.raises(BundleError, match=told):
            refuse_elsewhere(self.engine(), Path("model.engine"), "10.13.2", GPU)

    @pytest.mark.parametrize("absent", [{"version": None}, {"profiles": ()}])
    def test_one_whose_manifest_lacks_facts(self, absent: dict[str, object]) -> None:
        told = "model.engine: its manifest does not state the version and the profiles of the engine"
        with pytest.raises(BundleError, match=told) as failure:
            refuse_elsewhere(self.engine(**absent), Path("model.engine"), "10.13.2", GPU)
        assert failure.value.next_step == "export it again"

    def test_what_was_built_for_others_too(self) -> None:
        refuse_elsewhere(self.engine(version_compatible=True, compute_capability="9.0"), Path("p"), "11.0", GPU)
        refuse_elsewhere(self.engine(compute_capability=None), Path("p"), "10.13.2", GPU)
        refuse_elsewhere(self.engine(compute_capability="9.0", driver="1"), Path("p"), "10.13.2", GPU)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (BuildOptions(workspace_mib=1), "workspace_mib"),
            (BuildOptions(version_compatible=True), "version_compatible"),
            (BuildOptions(hardware_compatible=True), "hardware_compatible"),
        ],
    )
    def test_those_of_tensorrt_are_refused_elsewhere(self, options: BuildOptions, named: str) -> None:
        for backend in (Backend.ONNXRUNTIME, Backend.OPENVINO):
            with pytest.raises(InputError, match=f"the {backend} backend does not support `{named}`"):
                refuse_idle_options(backend, options)
        refuse_idle_options(Backend.TENSORRT, options)

    def test_tensorrt_rtx_has_no_version_compatible_engines(self) -> None:
        with pytest.raises(InputError, match="tensorrt-rtx backend does not support `version_compatible`"):
            refuse_idle_options(Backend.TENSORRT_RTX, BuildOptions(version_compatible=True))
