"""Saving: a sentence-transformers folder with float16 weights and CLS pooling."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer
from transformers import AlbertModel, BertTokenizerFast

from .student import HIDDEN_SIZE
from .tokenizer import MAX_SEQ_LENGTH


def save(model: AlbertModel, tokenizer: Tokenizer, out: Path) -> None:
    """Write the folder ``out``; the model itself stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        wrapped = BertTokenizerFast(
            tokenizer_object=tokenizer,
            do_lower_case=True,
            strip_accents=False,
            tokenize_chinese_chars=True,
            model_max_length=MAX_SEQ_LENGTH,
        )
        wrapped.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=MAX_SEQ_LENGTH)
        encoder = SentenceTransformer(modules=[transformer, Pooling(HIDDEN_SIZE, pooling_mode="cls")], device="cpu")
        encoder.half()
        encoder.save(str(out), create_model_card=False)
    # Stored in float16, but loaded as float32: half precision is no good default on CPU.
    _amend_json(out / "config.json", {"dtype": "float32"})
    # sentence-transformers 6 reads these two keys and no longer writes them.
    _amend_json(out / "sentence_bert_config.json", {"max_seq_length": MAX_SEQ_LENGTH, "do_lower_case": True})
    # Facts about the temporary folder, not about the tokenizer.
    _amend_json(out / "tokenizer_config.json", {}, drop=("is_local", "local_files_only"))


def _amend_json(path: Path, changes: dict[str, object], drop: Sequence[str] = ()) -> None:
    """Set and drop keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if key not in drop}
    path.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
