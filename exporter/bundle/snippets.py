"""Code of a model card: how vectors are computed from a bundle, by korsbert and without it.

The tests run each block as it stands on the card, and compare its vectors with those of ``korsbert.load``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from exporter.bundle.manifest import Manifest
from exporter.engines.openvino import HINTS
from exporter.targets import Backend, Device

_TEXTS = '["안녕하세요?", "한국어 문장입니다."]'
_EXTRAS = {
    Backend.ONNXRUNTIME: "cpu",
    Backend.OPENVINO: "openvino",
    Backend.TENSORRT: "tensorrt",
    Backend.TENSORRT_RTX: "tensorrt-rtx",
}
_READ_BY_JAVASCRIPT = ("WordPiece", "BPE")
"""Kinds of tokenizers of which ``@huggingface/tokenizers`` gives the same ids. It reads Unigram with other rules."""

_KORSBERT = """import korsbert

encoder = korsbert.load("{folder}")
vectors = encoder.encode({texts})  # float32, (2, {dimension})"""

_TOKENS = """folder = "{folder}"
tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")  # it lower-cases, truncates and pads
rows = tokenizer.encode_batch({given})
feeds = {{
    "input_ids": np.array([row.ids for row in rows], dtype=np.int64),
    "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
}}"""

_ONNXRUNTIME = """import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

{tokens}
session = ort.InferenceSession(f"{{folder}}/{file}", providers=["{provider}"])
vectors = session.run(["sentence_embedding"], feeds)[0]{sliced}  # float32, (2, {dimension})"""

_OPENVINO = """import numpy as np
import openvino as ov
from tokenizers import Tokenizer

{tokens}
options = {{"INFERENCE_PRECISION_HINT": "{hint}"}}  # without it, OpenVINO chooses by the processor
model = ov.Core().compile_model(f"{{folder}}/{file}", "CPU", options)
vectors = model(feeds)["sentence_embedding"]{sliced}  # float32, (2, {dimension})"""

_JAVASCRIPT = """import {{ readFileSync }} from "node:fs";
import {{ Tokenizer }} from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";

const folder = "{folder}";
const read = (name) => JSON.parse(readFileSync(`${{folder}}/${{name}}`, "utf8"));
const settings = read("tokenizer.json");
const tokenizer = new Tokenizer(settings, read("tokenizer_config.json"));
const session = await ort.InferenceSession.create(`${{folder}}/{file}`);

// This package does not truncate: the words are cut here, and the special tokens around them are kept.
function idsOf(text) {{
  const {{ ids }} = tokenizer.encode(text);
  const longest = settings.truncation.max_length;
  if (ids.length <= longest) return ids;
  const words = tokenizer.encode(text, {{ add_special_tokens: false }}).ids;
  const after = ids.length - words.length - ids.indexOf(words[0]);
  return [...ids.slice(0, longest - after), ...ids.slice(ids.length - after)];
}}

function tensorOf(rows, filler) {{
  const width = Math.max(...rows.map((row) => row.length));
  const padded = rows.flatMap((row) => {{
    const padding = Array(width - row.length).fill(filler);
    return settings.padding.direction === "Left" ? [...padding, ...row] : [...row, ...padding];
  }});
  return new ort.Tensor("int64", BigInt64Array.from(padded, BigInt), [rows.length, width]);
}}

const rows = {texts}.map((text) => idsOf({given}));
const {{ sentence_embedding: vectors }} = await session.run({{
  input_ids: tensorOf(rows, settings.padding.pad_id),
  attention_mask: tensorOf(rows.map((row) => row.map(() => 1)), 0),
}}); // vectors.data is a Float32Array of 2 x {full}"""


def folder_of(manifest: Manifest) -> str:
    """Return what the code calls the folder of a bundle."""
    return f"{manifest.recipe.name}-{manifest.engine.precision}-{manifest.engine.backend}"


def snippets(manifest: Manifest, tokenizer: str) -> Iterator[str]:
    """Yield the sections of a card about its use, as Markdown.

    Args:
        manifest: The manifest of the bundle.
        tokenizer: The kind of its tokenizer: ``"WordPiece"``, ``"BPE"``, ``"Unigram"`` or ``"WordLevel"``.
    """
    folder, engine = folder_of(manifest), manifest.engine
    extra = "gpu" if _on_cuda(manifest) else _EXTRAS[engine.backend]
    yield (
        f"The code reads the folder `{folder}`. From the hub: `hf download OWNER/NAME --local-dir {folder}`, with the "
        "name of this repository. `korsbert.load` also takes that name in place of the folder."
    )
    yield _fenced("bash", f"pip install 'korsbert[{extra}]'")
    yield _fenced("python", _KORSBERT.format(folder=folder, texts=_TEXTS, dimension=_dimension(manifest)))
    match engine.backend:
        case Backend.ONNXRUNTIME:
            yield from _with_onnxruntime(manifest, tokenizer)
        case Backend.OPENVINO:
            yield "### Without korsbert"
            yield _fenced("bash", "pip install numpy openvino tokenizers")
            yield _fenced("python", _filled(_OPENVINO, manifest, hint=HINTS[engine.precision][0]))


def _with_onnxruntime(manifest: Manifest, tokenizer: str) -> Iterator[str]:
    engine, on_cuda = manifest.engine, _on_cuda(manifest)
    package = "onnxruntime-gpu" if on_cuda else "onnxruntime"
    least = f"'{package}>={engine.least_runtime}'" if engine.least_runtime else package
    provider = "CUDAExecutionProvider" if on_cuda else "CPUExecutionProvider"
    yield "### Without korsbert"
    yield _fenced("bash", f"pip install numpy {least} tokenizers")
    yield _fenced("python", _filled(_ONNXRUNTIME, manifest, provider=provider))
    if on_cuda:
        return
    yield "### In JavaScript"
    if tokenizer not in _READ_BY_JAVASCRIPT:
        yield (
            f"`@huggingface/tokenizers` does not give the ids of this bundle's tokenizer ({tokenizer}) for every text, "
            "so there is no code for it here."
        )
        return
    yield "Node.js, in a file that ends in `.mjs`:"
    yield _fenced("bash", "npm install onnxruntime-node @huggingface/tokenizers")
    prompt = manifest.encoder.prompt
    given = f"{json.dumps(prompt, ensure_ascii=False)} + text" if prompt else "text"
    yield _fenced(
        "javascript",
        _JAVASCRIPT.format(
            folder=folder_of(manifest),
            file=engine.files[0],
            texts=_TEXTS,
            given=given,
            full=manifest.encoder.dimension,
        ),
    )


def _filled(template: str, manifest: Manifest, **others: str) -> str:
    encoder = manifest.encoder
    prompt = json.dumps(encoder.prompt, ensure_ascii=False)  # also a literal of Python
    given = f"[{prompt} + text for text in {_TEXTS}]" if encoder.prompt else _TEXTS
    dimension = _dimension(manifest)
    return template.format(
        tokens=_TOKENS.format(folder=folder_of(manifest), given=given),
        file=manifest.engine.files[0],
        sliced=f"[:, :{dimension}]" if dimension < encoder.dimension else "",
        dimension=dimension,
        **others,
    )


def _dimension(manifest: Manifest) -> int:
    encoder = manifest.encoder
    return min(encoder.dimension, encoder.truncate_dim or encoder.dimension)


def _on_cuda(manifest: Manifest) -> bool:
    return manifest.engine.backend is Backend.ONNXRUNTIME and manifest.validation.device is Device.CUDA


def _fenced(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"
