"""The anchor: a checkpoint's tokenizer, built from its own files by ``tokenizers`` alone.

transformers 5 builds many tokenizers anew from their vocabulary and takes the rest from classes of its own, so that the
normalizer, the pre-tokenizer or the template of ``tokenizer.json`` can be lost without a word. The anchor does not go
through transformers: what a bundle's tokenizer gives is compared with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from exporter.errors import CheckpointError, first_line

_NAMED_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")

# What the classes of transformers call the tokens that a checkpoint without tokenizer.json does not name.
_BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
    "bos_token": "<s>",
    "eos_token": "</s>",
}
_DEFAULT_TOKENS = {"mpnet": _ROBERTA_TOKENS | {"unk_token": "[UNK]"}}

# The side of the padding where no file states one; source: ``padding_side`` of these classes in transformers.
_PADDING_SIDES = {"GemmaTokenizer": "left"}

# The class that transformers 5 splits at whitespace before all else, whatever pre-tokenizer tokenizer.json has; and the
# architectures that have it where no file names a class. transformers 4 read the pre-tokenizer from the file.
_SPLITS_FIRST, _WITHOUT_A_CLASS = "XLMRobertaTokenizer", ("xlm-roberta",)

# Classes that take tokenizer.json as it is: the settings of tokenizer_config.json are not theirs.
_AS_IT_IS = {"PreTrainedTokenizer", "TokenizersBackend"}


def build_anchor(folder: Path, *, lower_case: bool, max_seq_length: int) -> Tokenizer:
    """Build a checkpoint's tokenizer from ``tokenizer.json``, ``vocab.txt``, or ``vocab.json`` and ``merges.txt``.

    It truncates at ``max_seq_length``, lower-cases as sentence-transformers is told to, and pads with the token that
    the checkpoint names.

    Args:
        folder: Where these files, ``tokenizer_config.json`` and ``config.json`` are.
        lower_case: ``do_lower_case`` of ``sentence_bert_config.json``: lower-casing before the tokenizer's own steps.
        max_seq_length: Tokens per sentence, special tokens included.

    Raises:
        CheckpointError: The folder has none of these files, or one that ``tokenizers`` cannot read.
    """
    settings = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")
    model_type = str(_read(folder / "config.json").get("model_type"))
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "merges.txt")):
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be read without transformers: there is no tokenizer.json, vocab.txt, "
            "or vocab.json with merges.txt",
            next_step="save tokenizer.json with AutoTokenizer.from_pretrained(...).save_pretrained(...), and check "
            "that it gives the ids the model was trained with",
        )
    try:
        tokenizer = _from_files(folder, settings, model_type)
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises Exception itself
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {first_line(error)}") from error
    if lower_case:
        tokenizer.normalizer = _lower_cased(tokenizer.normalizer)
    _set_limits(tokenizer, settings, max_seq_length)
    return tokenizer


def splits_first(folder: Path) -> bool:
    """Whether transformers 5 splits at whitespace first, and ``tokenizer.json`` does not.

    Whitespace at the end of a text is then no token. ``SentenceTransformer`` computes that, so the anchor follows.
    """
    settings, model_type = _read(folder / "tokenizer_config.json"), _read(folder / "config.json").get("model_type")
    named = _class_of(settings) or (_SPLITS_FIRST if model_type in _WITHOUT_A_CLASS else "")
    if named != _SPLITS_FIRST:  # before a file of megabytes is read
        return False
    step = _read(folder / "tokenizer.json").get("pre_tokenizer")
    return isinstance(step, dict) and step.get("type") == "Metaspace"


def _from_files(folder: Path, settings: dict[str, Any], model_type: str) -> Tokenizer:
    """Return the tokenizer of the first of these files that is there, without limits and padding."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.normalizer = _with_settings(tokenizer.normalizer, settings)
        if splits_first(folder):
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), tokenizer.pre_tokenizer]
            )
        return tokenizer
    if (folder / "vocab.txt").is_file():
        return _word_piece(folder, settings, _DEFAULT_TOKENS.get(model_type, _BERT_TOKENS))
    return _byte_level(folder, settings)


def _with_settings(normalizer: Any, settings: dict[str, Any]) -> Any:
    """Return a BERT normalizer with the settings that ``tokenizer_config.json`` states, others as they are.

    These settings win over ``tokenizer.json`` in transformers 4 and 5 alike. A key that is absent is left as
    ``tokenizer.json`` has it: where transformers takes a default of its own that differs, the check finds it.
    """
    if not isinstance(normalizer, normalizers.BertNormalizer) or _class_of(settings) in _AS_IT_IS:
        return normalizer
    return normalizers.BertNormalizer(
        clean_text=normalizer.clean_text,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", normalizer.handle_chinese_chars),
        strip_accents=settings.get("strip_accents", normalizer.strip_accents),
        lowercase=settings.get("do_lower_case", normalizer.lowercase),
    )


def _word_piece(folder: Path, settings: dict[str, Any], defaults: dict[str, str]) -> Tokenizer:
    """Return BERT's tokenizer over ``vocab.txt``; source: the ``tokenization.py`` of google-research/bert."""
    tokens = defaults | {name: _content(settings[name]) for name in _NAMED_TOKENS if settings.get(name)}
    vocabulary = models.WordPiece.read_file(str(folder / "vocab.txt"))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = tokens["cls_token"], tokens["sep_token"]
    ids = _ids(tokenizer, (cls, sep), folder / "vocab.txt")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
        special_tokens=[(cls, ids[0]), (sep, ids[1])],
    )
    tokenizer.add_special_tokens([token for token in tokens.values() if tokenizer.token_to_id(token) is not None])
    return tokenizer


def _byte_level(folder: Path, settings: dict[str, Any]) -> Tokenizer:
    """Return RoBERTa's tokenizer over ``vocab.json`` and ``merges.txt``."""
    tokens = _ROBERTA_TOKENS | {name: _content(settings[name]) for name in _NAMED_TOKENS if settings.get(name)}
    prefix = bool(settings.get("add_prefix_space", False))
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    cls, sep = tokens["cls_token"], tokens["sep_token"]
    ids = _ids(tokenizer, (cls, sep), folder / "vocab.json")
    tokenizer.post_processor = processors.RobertaProcessing((sep, ids[1]), (cls, ids[0]), add_prefix_space=prefix)
    tokenizer.add_special_tokens([token for token in tokens.values() if tokenizer.token_to_id(token) is not None])
    return tokenizer


def _lower_cased(normalizer: Any) -> Any:
    """Put ``Lowercase`` first, unless it is one of the steps already, as sentence-transformers 6 does."""
    if normalizer is None:
        return normalizers.Sequence([normalizers.Lowercase()])
    steps: list[Any] = [*normalizer] if isinstance(normalizer, normalizers.Sequence) else [normalizer]  # type: ignore[misc]
    if any(isinstance(step, normalizers.Lowercase) for step in steps):
        return normalizer
    return normalizers.Sequence([normalizers.Lowercase(), *steps])


def _set_limits(tokenizer: Tokenizer, settings: dict[str, Any], max_seq_length: int) -> None:
    """Set truncation and padding: sides as ``tokenizer_config.json`` or else ``tokenizer.json`` states them."""
    truncation, padding = tokenizer.truncation or {}, tokenizer.padding or {}
    tokenizer.enable_truncation(
        max_seq_length, direction=settings.get("truncation_side") or truncation.get("direction", "right")
    )
    stated = _content(settings.get("pad_token")) or padding.get("pad_token")
    token = stated or next((name for name in ("[PAD]", "<pad>") if tokenizer.token_to_id(name) is not None), None)
    if token is None or tokenizer.token_to_id(token) is None:
        tokenizer.no_padding()
        return
    side = _PADDING_SIDES.get(_class_of(settings), "right")
    tokenizer.enable_padding(
        direction=settings.get("padding_side") or padding.get("direction", side),
        pad_id=tokenizer.token_to_id(token),
        pad_token=token,
    )


def _class_of(settings: dict[str, Any]) -> str:
    return str(settings.get("tokenizer_class") or "").removesuffix("Fast")


def _ids(tokenizer: Tokenizer, tokens: tuple[str, ...], file: Path) -> list[int]:
    ids = {token: tokenizer.token_to_id(token) for token in tokens}
    absent = [token for token in tokens if ids[token] is None]
    if absent:
        raise CheckpointError(
            f"{file}: has no {absent[0]!r}, which the sentence's template needs",
            next_step="name the special tokens in tokenizer_config.json, or save tokenizer.json",
        )
    return [value for value in ids.values() if value is not None]


def _content(token: Any) -> str:
    """Return the text of a special token, which files state as a string or as an object."""
    if isinstance(token, dict):
        return str(token.get("content", ""))
    return token if isinstance(token, str) else ""


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
