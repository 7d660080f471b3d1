"""What an export writes down: the manifest, the reports, the model card, and the tokenizer's files."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from exporter.bundle import (
    PARITY,
    TOKENIZER,
    Bundle,
    GraphFacts,
    Manifest,
    RangesFacts,
    Record,
    Validation,
)
from exporter.bundle.model_card import model_card
from exporter.checkpoint import Checkpoint
from exporter.engines import Engine
from exporter.engines.cuda import find_gpu
from exporter.errors import BundleError, GateError
from exporter.graph import Graph
from exporter.machine import machine, tool_versions
from exporter.precisions import ConversionReport
from exporter.recipe import Recipe
from exporter.report import PAGE, PageData, report_page
from exporter.runtime.tokens import pieces
from exporter.runtime.vector_types import RANGES, Ranges
from exporter.targets import Device, Precision
from exporter.validator import ParityReport

TOKENIZER_CONFIG = "tokenizer_config.json"
TOOLS = (
    "korsbert",
    "torch",
    "transformers",
    "sentence-transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "polygraphy",
    "numpy",
)


@dataclass(frozen=True)
class Judged:
    """An engine that passed, and what was found of it.

    Attributes:
        graph: The graph it was built from.
        engine: Its files and facts.
        report: What the gate and the checks found.
        folded: What gate 1 found of the float32 graph; None where the engine is that very graph.
        ranges: The ranges of int8 vectors.
        calibrated: What they were taken from.
    """

    graph: Graph
    engine: Engine
    report: ParityReport
    folded: ParityReport | None
    ranges: Ranges
    calibrated: RangesFacts


def manifest_of(
    judged: Judged, added: ConversionReport, checkpoint: Checkpoint, recipe: Recipe, *, device: Device, runs_here: bool
) -> Manifest:
    """Return everything that is known of an engine; files and seal come with its publication.

    Args:
        judged: What passed.
        added: What its precision adds.
        checkpoint: What it was made from.
        recipe: What was asked for.
        device: Where the engine runs.
        runs_here: Whether the report is the engine's own, or that of its graph on a machine that cannot run it.
    """
    graph, engine, report = judged.graph, judged.engine, judged.report
    return Manifest(
        recipe=recipe.model_copy(update={"source": recipe.source_name()}),
        source=checkpoint.provenance(),
        encoder=checkpoint.facts,
        graph=GraphFacts(sha256=graph.content_hash(), nodes=graph.op_counts(), weight_bytes=graph.weight_bytes()),
        engine=engine.model_copy(update={"decisions": ()}),  # told once, among all the others
        quantization=added.quantization,
        ranges=judged.calibrated,
        decisions=(*checkpoint.decisions, *graph.decisions, *engine.decisions),
        validation=Validation(
            state="passed" if runs_here else "pending",
            device=device,
            execution=report.execution,
            probes_sha256=report.probes_sha256,
            min_cosine=report.statistics["min_cosine"],
            gates=tuple(str(verdict) for verdict in report.verdicts),
            note=_validation_note(engine, device) if runs_here else _pending_note(engine, report),
        ),
        tools=tool_versions(TOOLS),
        machine=_machine(device if runs_here else Device.CPU),
        created=_now(),
    )


def record_validation(bundle: Bundle, report: ParityReport) -> Bundle:
    """Record that a pending bundle has passed its gate on this machine, in ``validation.json`` beside its manifest.

    Args:
        bundle: A bundle that was published without validation.
        report: The report of ``validate`` about this bundle.

    Returns:
        The bundle with the record.

    Raises:
        GateError: The report failed.
        BundleError: The bundle is not pending, the report is about another bundle or another device or was made with
            a golden file, or the folder cannot be written to.
    """
    refuse_to_record(bundle, report.device)
    if report.golden is not None:
        raise BundleError(
            f"{bundle.folder}: the report is about a golden file, and only a validation against the checkpoint is "
            "recorded",
            next_step="validate it without `golden`",
        )
    if report.bundle != bundle.manifest.seal:
        raise BundleError(f"{bundle.folder}: the report is about another bundle", next_step="validate this one")
    if not report.passed:
        raise GateError(
            report.failure(), report=report.to_dict(), next_step="export it again: only a passed gate is recorded"
        )
    return bundle.write_record(
        Record(
            manifest_seal=bundle.manifest.seal,
            report=report.to_dict(),
            machine=_machine(bundle.manifest.validation.device),
            tools=tool_versions(TOOLS),
            created=_now(),
        )
    )


def refuse_to_record(bundle: Bundle, device: str | None) -> None:
    """Refuse a bundle for which no validation on ``device`` can be recorded. This can be asked before the validation.

    Raises:
        BundleError: The bundle was validated before it was published, or it is for another device.
    """
    validation = bundle.manifest.validation
    if validation.state != "pending":
        raise BundleError(
            f"{bundle.folder}: validated before it was published, so there is nothing to record",
            next_step="validate it without `record`",
        )
    if device != validation.device:
        raise BundleError(
            f"{bundle.folder}: made for {validation.device}, so a validation on {device} is not recorded",
            next_step=f"validate it with `device={validation.device}`",
        )


def write_files(manifest: Manifest, judged: Judged, added: ConversionReport, folder: Path) -> None:
    """Write what lies beside engine and tokenizer: reports, page and model card."""
    for name, content in added.files.items():
        (folder / name).write_bytes(content)
    (folder / RANGES).write_bytes(judged.ranges.to_json())
    _write_json(folder / PARITY, _parity_of(judged))
    (folder / "README.md").write_text(_card(manifest, judged, added, folder), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    (folder / PAGE).write_bytes(
        report_page(
            PageData(
                reports=(judged.report.to_dict(),),
                not_validated=manifest.validation.note if manifest.validation.state == "pending" else None,
                manifest=manifest.model_dump(mode="json"),
                files=added.files,
                split=lambda text: pieces(tokenizer, manifest.encoder.prompt + text),
            )
        )
    )


def _card(manifest: Manifest, judged: Judged, added: ConversionReport, folder: Path) -> str:
    quantized = added.quantization
    return model_card(
        manifest,
        judged.report,
        tokenizer=json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))["model"]["type"],
        int8=None if quantized is None else json.loads(added.files[quantized.ranges]),
        modules=added.modules,
    )


def _parity_of(judged: Judged) -> dict[str, Any]:
    """Return the report as JSON data, with what gate 1 found of the float32 graph, probe by probe left out."""
    folded = judged.folded.to_dict() if judged.folded is not None else None
    kept = ("subject", "execution", "passed", "statistics", "verdicts", "checks")
    proven = None if folded is None else {name: folded[name] for name in kept}
    return {**judged.report.to_dict(), "fp32_graph": proven}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what transformers and tokenizers read: our tokenizer.json, which truncates and lower-cases by itself."""
    checkpoint.model[0].tokenizer.save_pretrained(str(folder))
    # fastembed, and transformers, truncate at this length and not at tokenizer.json's.
    settings = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    lengths = ("model_max_length", *(["max_length"] if "max_length" in settings else []))
    settings |= dict.fromkeys(lengths, checkpoint.facts.max_seq_length)
    (folder / TOKENIZER_CONFIG).write_text(
        json.dumps(settings, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    checkpoint.tokenizer.save(str(folder / TOKENIZER))
    config = checkpoint.model[0].auto_model.config.to_dict()
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _machine(device: str) -> dict[str, Any]:
    gpu = find_gpu() if device == "cuda" else None
    return machine() if gpu is None else {**machine(), "gpu": asdict(gpu)}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _pending_note(engine: Engine, report: ParityReport) -> str:
    return (
        f"UNVALIDATED: no machine has run this engine yet. {report.subject} was judged instead, on {report.execution}. "
        f"On a machine with {engine.backend}, `korsbert validate` with the option `record` validates the engine and "
        "records the result"
    )


def _validation_note(engine: Engine, device: str) -> str:
    if engine.precision.is_int8:
        return f"the gate was passed on this machine's {device}, which its int8 is typed for"
    if device == "cpu" and engine.precision is not Precision.FP32:
        return (
            f"the gate was passed on a CPU; where {engine.precision} runs on other hardware, "
            "run `korsbert validate` there, on a GPU with the option `device=cuda`"
        )
    return f"the gate was passed on this machine's {device}"
