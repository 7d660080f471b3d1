"""The student's tokenizer: a lower-casing WordPiece that keeps Hangul composed."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from .corpus import Corpus

VOCAB_SIZE = 12_800
MAX_SEQ_LENGTH = 256  # tokens, CLS and SEP included
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD_ID, CLS_ID, SEP_ID = 0, 2, 3
# Repeated so often that every one of these characters enters the alphabet.
COMMON_CHARACTERS = ["abcdefghijklmnopqrstuvwxyz 0123456789 !?.,:;'\"()[]-+=/*%&@#$~^…·’‘“”ㅋㅎㅠㅜ♥♡★☆"] * 50


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Train the tokenizer on the corpus, the sources weighted by how much of the vocabulary they should get."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    # strip_accents decomposes to NFD to find the accents, and would take every Hangul syllable apart.
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=SPECIAL_TOKENS, limit_alphabet=2_000, show_progress=False
    )
    text = corpus.templates + corpus.chat * 3 + corpus.reviews[:120_000] + corpus.english * 2 + COMMON_CHARACTERS
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS_ID), ("[SEP]", SEP_ID)],
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return each text's token ids with CLS and SEP, cut to ``MAX_SEQ_LENGTH``."""
    rows = (encoding.ids for encoding in tokenizer.encode_batch(list(texts)))
    return [ids if len(ids) <= MAX_SEQ_LENGTH else [*ids[: MAX_SEQ_LENGTH - 1], SEP_ID] for ids in rows]


def piece_texts(tokenizer: Tokenizer) -> list[str]:
    """Return the text of each word piece in the order of the ids, without the ``##`` that marks a continuation."""
    return [tokenizer.id_to_token(i).removeprefix("##") for i in range(VOCAB_SIZE)]
