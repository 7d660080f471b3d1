"""The tokenizers of multilingual twins: Unigram, byte-level BPE and BPE with a byte fallback, and their files.

All are made of the project's own sentences, and equal sentences give equal files: Unigram's entries and scores are
counted, and the training of BPE is deterministic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from tests.support.twins.charsmap import nfkc_charsmap
from tests.support.twins.tokenizer import write_json

Subwords = Literal["xlm-roberta", "qwen2", "gemma"]
SIZE = 2_000
"""Entries, in small and full twins alike: the rows of a full twin's table that no text reaches are read by sweeps."""

_ALPHABET = 900  # characters that Gemma's have entries of; others are bytes
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space


def write_subwords(folder: Path, kind: Subwords, limit: int, texts: Iterable[str]) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json``.

    Args:
        folder: Where to write.
        kind: Whose tokenizer.
        limit: ``model_max_length`` of the tokenizer.
        texts: What the entries are taken from.
    """
    words = list(texts)
    tokenizer, settings = {"xlm-roberta": _xlm_roberta, "qwen2": _qwen2, "gemma": _gemma}[kind](words)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {name: token for name, token in settings.items() if name.endswith("_token") and isinstance(token, str)}
    write_json(folder / "special_tokens_map.json", named)
    write_json(folder / "tokenizer_config.json", dict(sorted((settings | {"model_max_length": limit}).items())))


def _xlm_roberta(texts: list[str]) -> tuple[Tokenizer, dict[str, object]]:
    """Return a Unigram tokenizer with the ids, the normalization and the template of XLM-R's."""
    special = ("<s>", "<pad>", "</s>", "<unk>")
    entries = [(token, 0.0) for token in special] + _scored(texts, SIZE - len(special) - 1) + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(entries, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(nfkc_charsmap()), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(_SPACE, "always")]
    )
    tokenizer.decoder = decoders.Metaspace(_SPACE, "always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", lstrip=True)])
    named = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    named |= {"mask_token": "<mask>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return tokenizer, {**named, "tokenizer_class": "XLMRobertaTokenizer"}


def _scored(texts: list[str], size: int) -> list[tuple[str, float]]:
    """Return ``size`` pieces with the logarithm of their share: characters, then what saves most tokens of a text."""
    characters: Counter[str] = Counter()
    pieces: Counter[str] = Counter()
    for text in texts:
        for word in normalizers.NFKC().normalize_str(text).split():
            marked = _SPACE + word
            characters.update(marked)
            pieces.update(marked[:end] for end in range(2, len(marked) + 1))
            pieces.update(marked[start:] for start in range(1, len(marked) - 1))
    ranked = sorted(characters, key=lambda piece: (-characters[piece], piece))[: size * 3 // 5]
    ranked += sorted(
        (piece for piece, count in pieces.items() if count > 1),
        key=lambda piece: (-pieces[piece] * (len(piece) - 1), piece),
    )
    chosen = ranked[:size]
    counts = characters + pieces
    total = sum(counts[piece] for piece in chosen)
    return [(piece, math.log(counts[piece] / total)) for piece in chosen]


def _qwen2(texts: list[str]) -> tuple[Tokenizer, dict[str, object]]:
    """Return a byte-level BPE tokenizer that ends each text with the token it also pads with, on the left."""
    end = "<|endoftext|>"
    special = (end, "<|im_start|>", "<|im_end|>")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    settings = {"eos_token": "<|im_end|>", "pad_token": end, "padding_side": "left"}
    return tokenizer, {**settings, "tokenizer_class": "Qwen2Tokenizer"}


def _gemma(texts: list[str]) -> tuple[Tokenizer, dict[str, object]]:
    """Return a BPE tokenizer that falls back to bytes, between ``<bos>`` and ``<eos>``."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    characters = Counter("".join(texts).replace(" ", _SPACE))
    alphabet = sorted(characters, key=lambda character: (-characters[character], character))[:_ALPHABET]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[*special, *fallback],
        initial_alphabet=alphabet,
        limit_alphabet=_ALPHABET,  # left to the trainer, what is dropped among equally frequent ones would be chance
        show_progress=False,
    )
    # Words, not lines: with no space left to split at, an entry could reach across words.
    tokenizer.train_from_iterator([word for text in texts for word in _words(text)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A <eos> <bos> $B <eos>",
        special_tokens=[("<bos>", special.index("<bos>")), ("<eos>", special.index("<eos>"))],
    )
    named = {f"{token[1:-1]}_token": token for token in special}
    return tokenizer, {**named, "tokenizer_class": "GemmaTokenizer"}


def _words(text: str) -> list[str]:
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]
