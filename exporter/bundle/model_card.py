"""The README.md of a bundle: what it is, what was proven, how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from huggingface_hub import EvalResult, ModelCardData

from exporter.bundle.manifest import Manifest
from exporter.validator.gates import significant
from exporter.validator.report import ParityReport

_USE = """```python
import korsbert

encoder = korsbert.load("path/to/this/folder")
vectors = encoder.encode(["안녕하세요?", "한국어 문장입니다."])  # (2, {dimension}) float32
```"""


def model_card(manifest: Manifest, report: ParityReport, modules: str = "") -> str:
    """Return the model card as Markdown, with the metadata of the Hugging Face Hub in front.

    Args:
        manifest: The manifest of the bundle.
        report: The report of its last gate.
        modules: A Markdown table of the precision of each module, if modules differ in precision.
    """
    encoder, engine = manifest.encoder, manifest.engine
    sections = [
        "\n".join(("---", _metadata(manifest, report), "---")),
        f"# {manifest.recipe.name}, {engine.precision}, {engine.backend}",
        _summary(manifest),
        f"License of the checkpoint: {manifest.recipe.license}" if manifest.recipe.license else "",
        "## Use",
        _USE.format(dimension=encoder.dimension),
        f"Inputs `input_ids` and `attention_mask`, int64 (batch, sequence), at most {encoder.max_seq_length} tokens; "
        f"output `sentence_embedding`, float32 (batch, {encoder.dimension}).",
        f"ONNX Runtime must be {engine.least_runtime} or newer." if engine.least_runtime else "",
        "Rows must be padded on the right." if engine.facts.right_padded else "",
        "## Parity with PyTorch",
        *_parity(manifest, report),
        *_published(manifest),
        "## Decisions",
        "\n".join(f"- {decision}" for decision in manifest.decisions),
        *_int8(manifest, modules),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(manifest: Manifest, report: ParityReport) -> str:
    """Return what the Hugging Face Hub reads of a card: library, task, tags, and the task scores of this bundle."""
    engine, source = manifest.engine, manifest.source
    measured = [
        EvalResult(
            task_type="sentence-similarity",
            dataset_type=score.name,
            dataset_name=score.name,
            metric_type="spearman",
            metric_value=round(score.candidate_spearman, 2),
        )
        for score in report.sts
    ]
    data = ModelCardData(
        library_name="korsbert",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", str(engine.backend), str(engine.precision)],
        base_model=source.checkpoint if source.commit else None,  # a folder has no name on the hub
        license=manifest.recipe.license.lower() if manifest.recipe.license else None,
        model_name=manifest.recipe.name if measured else None,
        eval_results=measured or None,
    )
    text: str = data.to_yaml()
    return text


def _summary(manifest: Manifest) -> str:
    encoder, source = manifest.encoder, manifest.source
    commit = f" at commit `{source.commit}`" if source.commit else ""
    compared = (
        "It was compared with the PyTorch checkpoint before it was published."
        if manifest.validation.state == "passed"
        else "It was published before any machine had run it: only its graph was compared with the PyTorch checkpoint."
    )
    return (
        f"{encoder.architecture} with {', '.join(encoder.modules[1:])} in one {manifest.engine.backend} artifact: "
        f"token ids and mask in, sentence vector ({encoder.dimension} float32) out. Made from "
        f"`{source.checkpoint}`{commit} by korsbert {manifest.tools.get('korsbert', '')}. {compared}"
    )


def _parity(manifest: Manifest, report: ParityReport) -> tuple[str, ...]:
    bounds = (
        (verdict.name, significant(verdict.value), f"{verdict.relation} {significant(verdict.bound)}")
        for verdict in report.verdicts
    )
    checks = ((check.name, check.result, check.coverage) for check in report.checks)
    scores = (
        f"{score.name} ({score.pairs} pairs): Spearman {score.reference_spearman:.2f} (PyTorch), "
        f"{score.candidate_spearman:.2f} (this bundle)."
        for score in report.sts
    )
    return (
        f"{report.coverage}, from string to vector on {report.execution}: {manifest.validation.note}.",
        _table(("statistic", "measured", "gate"), bounds),
        "Checks of what sentences do not reach, and what each check covered (figures in `parity.json`):",
        _table(("check", "result", "coverage"), checks),
        *scores,
    )


def _published(manifest: Manifest) -> tuple[str, ...]:
    scores = [(score.dataset, score.metric, f"{score.value:.2f}") for score in manifest.recipe.published]
    return ("## Published scores of the checkpoint", _table(("data set", "metric", "x100"), scores)) if scores else ()


def _int8(manifest: Manifest, modules: str) -> tuple[str, ...]:
    if manifest.quantization is None:
        return ()
    told = (
        "`int8.json` lists every scale, the loss of each module on its own, and what was tried; `int8.svg` shows the "
        "other choices."
    )
    return told, modules.strip()


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows))
