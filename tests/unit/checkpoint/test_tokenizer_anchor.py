"""The anchor is the checkpoint's own tokenizer, and any difference from it is found, wherever in the vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.checkpoint.tokenizer_anchor import build_anchor, splits_first
from exporter.errors import CheckpointError
from exporter.recipe import Expectations, Recipe, find_recipe
from exporter.validator.tokenizer import check_tokenizer
from tests.support.checkpoints import DEMO
from tests.support.stand_in import words_tokenizer
from tests.support.twins import ALL_TWINS, build_twin

TEXTS = [
    "",
    "문 앞에 택배 상자가 세 개 쌓였다.",
    "The GARDEN gate squeaks; nobody oils it.",
    "Café, naïve, Ångström, e\u0301",
    "山と川 그리고 바다",
    "빈칸은 [MASK] 이다",
    "끝없이 " * 300,
]


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return load_checkpoint(find_recipe("demo"))


def changed(tokenizer: Tokenizer, change: Callable[[dict[str, Any]], object]) -> Tokenizer:
    content = json.loads(tokenizer.to_str())
    change(content)
    return Tokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize("name", ALL_TWINS)
def test_the_published_tokenizer_of_a_twin_equals_its_anchor(name: str, tmp_path: Path) -> None:
    pooling = Expectations(pooling=find_recipe(name).expect.pooling)
    checkpoint = load_checkpoint(Recipe(name=name, source=str(build_twin(name, tmp_path)), expect=pooling))
    check = check_tokenizer(checkpoint.anchor, checkpoint.tokenizer, TEXTS)
    assert check.passed, check.failures
    assert check.coverage == "7 texts and 2,000 vocabulary entries give the same ids"


def test_the_anchor_reads_vocab_txt_as_well_as_tokenizer_json(tmp_path: Path) -> None:
    folder = build_twin("ko-sbert-sts", tmp_path)
    both = build_anchor(folder, lower_case=False, max_seq_length=128)
    (folder / "tokenizer.json").unlink()
    check = check_tokenizer(both, build_anchor(folder, lower_case=False, max_seq_length=128), TEXTS)
    assert check.passed, check.failures


class TestDifferences:
    def test_none_between_the_demo_and_its_anchor(self, demo: Checkpoint) -> None:
        check = check_tokenizer(demo.anchor, demo.tokenizer, TEXTS)
        assert check.passed
        assert check.coverage == "7 texts and 12,800 vocabulary entries give the same ids"
        assert check.figures["ids_in_them"] == 12_800

    def test_ids_of_words_that_no_text_uses(self, demo: Checkpoint) -> None:
        used = {number for text in TEXTS for number in demo.anchor.encode(text).ids}
        vocabulary = demo.anchor.get_vocab(with_added_tokens=True)
        unused = sorted(token for token, number in vocabulary.items() if number not in used and number > 4)
        rotated = dict(zip(unused, [vocabulary[token] for token in (*unused[1:], unused[0])], strict=True))
        other = changed(demo.tokenizer, lambda content: content["model"]["vocab"].update(rotated))
        assert [other.encode(text).ids for text in TEXTS] == [demo.anchor.encode(text).ids for text in TEXTS]
        check = check_tokenizer(demo.anchor, other, TEXTS)
        assert not check.passed
        assert f"{len(unused):,} of 12,800 vocabulary entries have another id" in check.failures[0]
        assert "texts made of vocabulary entries have other ids" in check.failures[1]

    def test_two_continuations_that_change_places(self, demo: Checkpoint) -> None:
        vocabulary = demo.anchor.get_vocab()
        first, second = sorted(token for token in vocabulary if token.startswith("##"))[:2]
        swap = {first: vocabulary[second], second: vocabulary[first]}
        other = changed(demo.tokenizer, lambda content: content["model"]["vocab"].update(swap))
        check = check_tokenizer(demo.anchor, other, [])
        assert check.failures[0].startswith("2 of 12,800 vocabulary entries have another id")
        assert "texts made of vocabulary entries have other ids" in check.failures[1]

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda content: content["truncation"].update(max_length=128), "truncation is"),
            (lambda content: content["truncation"].update(direction="Left"), "truncation is"),
            (lambda content: content["padding"].update(pad_id=1), "padding is"),
            (lambda content: content["padding"].update(direction="Left"), "padding is"),
            (lambda content: content.update(normalizer=None), "texts have other ids"),
            (lambda content: content.update(post_processor=None), "texts have other ids"),
            (lambda content: content["model"].update(max_input_chars_per_word=3), "texts have other ids"),
            (lambda content: content["added_tokens"].pop(), "texts have other ids: '빈칸은 [MASK]"),
            (lambda content: content["model"].update(continuing_subword_prefix="@@"), "vocabulary entries have other"),
        ],
        ids=lambda value: None if callable(value) else value,
    )
    def test_a_setting(self, demo: Checkpoint, change: Callable[[dict[str, Any]], object], told: str) -> None:
        check = check_tokenizer(demo.anchor, changed(demo.tokenizer, change), TEXTS)
        assert not check.passed
        assert any(told in failure for failure in check.failures), check.failures

    def test_a_step_that_changes_one_phrase_and_no_probe(self, demo: Checkpoint) -> None:
        def change(content: dict[str, Any]) -> None:
            replace = {"type": "Replace", "pattern": {"String": "매우 만족"}, "content": "매우 불만"}
            content["normalizer"] = {"type": "Sequence", "normalizers": [replace, content["normalizer"]]}

        check = check_tokenizer(demo.anchor, changed(demo.tokenizer, change), TEXTS)
        assert check.failures == ("normalizer is not that of the checkpoint's files",)

    def test_none_where_lower_casing_comes_twice(self, demo: Checkpoint) -> None:
        def change(content: dict[str, Any]) -> None:
            content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, content["normalizer"]]}

        assert check_tokenizer(demo.anchor, changed(demo.tokenizer, change), TEXTS).failures == ()

    @pytest.mark.parametrize("step", [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False)])
    def test_of_spaces_before_a_split_at_spaces_are_none(self, step: Any) -> None:
        anchor, candidate = words_tokenizer("밥", "국"), words_tokenizer("밥", "국")
        anchor.normalizer = normalizers.Sequence([normalizers.NFC(), step])
        candidate.normalizer = normalizers.NFC()
        assert check_tokenizer(anchor, candidate, ["밥  국 "]).failures == ()
        for tokenizer in (anchor, candidate):
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        assert "normalizer is not that of the checkpoint's files" in check_tokenizer(anchor, candidate, []).failures

    def test_steps_of_spaces_that_another_step_follows_count(self) -> None:
        anchor, candidate = words_tokenizer("밥", "국"), words_tokenizer("밥", "국")
        after = normalizers.Replace(" ", "_")
        anchor.normalizer = normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " "), after])
        candidate.normalizer = normalizers.Sequence([after])
        check = check_tokenizer(anchor, candidate, [])
        assert check.failures == ("normalizer is not that of the checkpoint's files",)

    def test_a_tokenizer_that_transformers_builds_otherwise_than_tokenizer_json_says(self, tmp_path: Path) -> None:
        """Without ``do_lower_case`` in its settings, transformers lower-cases; ``tokenizer.json`` does not."""
        folder = build_twin("ko-sbert-sts", tmp_path)
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        del settings["do_lower_case"]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        checkpoint = load_checkpoint(Recipe(name="case", source=str(folder)))
        check = check_tokenizer(checkpoint.anchor, checkpoint.tokenizer, TEXTS)
        assert any("'The GARDEN gate squeaks" in failure for failure in check.failures)


class TestOtherFiles:
    def test_byte_level_files_give_the_ids_that_transformers_gives(self, tmp_path: Path) -> None:
        vocabulary = [
            "<s>",
            "<pad>",
            "</s>",
            "<unk>",
            "<mask>",
            *sorted(pre_tokenizers.ByteLevel.alphabet()),
            "Ġt",
            "he",
        ]
        (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
        (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ t\nh e\n")
        (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
        wrapped = AutoTokenizer.from_pretrained(tmp_path)
        candidate = Tokenizer.from_str(wrapped.backend_tokenizer.to_str())
        candidate.enable_truncation(32)
        candidate.enable_padding(pad_id=wrapped.pad_token_id, pad_token=wrapped.pad_token)
        anchor = build_anchor(tmp_path, lower_case=False, max_seq_length=32)
        check = check_tokenizer(anchor, candidate, TEXTS)
        assert check.passed, check.failures
        swap = {"Ġt": vocabulary.index("he"), "he": vocabulary.index("Ġt")}
        other = changed(candidate, lambda content: content["model"]["vocab"].update(swap))
        assert any("vocabulary entries have other ids" in one for one in check_tokenizer(anchor, other, []).failures)

    def test_a_sentencepiece_vocabulary_is_checked_entry_by_entry(self, tmp_path: Path) -> None:
        pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁물", -2.0), ("결", -3.0), ("▁", -4.0)]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        anchor = build_anchor(tmp_path, lower_case=False, max_seq_length=16)
        assert check_tokenizer(anchor, anchor, TEXTS).passed

        def swap(content: dict[str, Any]) -> None:
            vocabulary = content["model"]["vocab"]
            vocabulary[4], vocabulary[5] = vocabulary[5], vocabulary[4]

        assert not check_tokenizer(anchor, changed(anchor, swap), []).passed

    def test_a_sentencepiece_model_alone_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "spiece.model").write_bytes(b"anything")
        with pytest.raises(CheckpointError, match="cannot be read without transformers") as failure:
            build_anchor(tmp_path, lower_case=False, max_seq_length=16)
        assert "save tokenizer.json" in str(failure.value.next_step)

    def test_a_vocabulary_without_the_tokens_of_its_template_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n가\n")
        with pytest.raises(CheckpointError, match=r"vocab.txt: has no '\[CLS\]'"):
            build_anchor(tmp_path, lower_case=False, max_seq_length=16)

    def test_a_file_that_is_no_tokenizer_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
        with pytest.raises(CheckpointError, match="its tokenizer cannot be read"):
            build_anchor(tmp_path, lower_case=False, max_seq_length=16)


class TestSettings:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            shutil.copy(DEMO / name, tmp_path / name)
        return tmp_path

    def anchor(self, folder: Path, **settings: Any) -> Tokenizer:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
        return build_anchor(folder, lower_case=False, max_seq_length=32)

    def test_of_a_bert_normalizer_win_over_tokenizer_json(self, folder: Path) -> None:
        assert self.anchor(folder).normalizer.normalize_str("KOREA") == "korea"
        assert self.anchor(folder, do_lower_case=False).normalizer.normalize_str("KOREA") == "KOREA"
        assert self.anchor(folder, strip_accents=True).normalizer.normalize_str("é") == "e"
        assert self.anchor(folder, tokenize_chinese_chars=False).normalizer.normalize_str("山") == "山"

    def test_are_not_read_where_the_class_takes_tokenizer_json_as_it_is(self, folder: Path) -> None:
        anchor = self.anchor(folder, do_lower_case=False, tokenizer_class="PreTrainedTokenizerFast")
        assert anchor.normalizer.normalize_str("KOREA") == "korea"

    def test_of_sides_and_of_the_padding_token(self, folder: Path) -> None:
        anchor = self.anchor(folder, padding_side="left", truncation_side="left", pad_token={"content": "[MASK]"})
        assert anchor.truncation is not None
        assert anchor.padding is not None
        assert (anchor.truncation["direction"], anchor.truncation["max_length"]) == ("left", 32)
        assert (anchor.padding["direction"], anchor.padding["pad_id"]) == ("left", 4)

    @pytest.mark.parametrize("named", [{"tokenizer_class": "XLMRobertaTokenizer"}, {}])
    def test_xlm_r_splits_at_whitespace_first_as_transformers_5_does(
        self, named: dict[str, str], tmp_path: Path
    ) -> None:
        folder = build_twin("multilingual-e5-base", tmp_path)
        (folder / "tokenizer_config.json").write_text(json.dumps({**named, "model_max_length": 64}))
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        assert not splits_first(folder)  # the file says so itself
        content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        checkpoint = load_checkpoint(Recipe(name="case", source=str(folder)))
        check = check_tokenizer(checkpoint.anchor, checkpoint.tokenizer, [*TEXTS, "끝에 빈칸 ", " a\t"])
        assert check.passed, check.failures
        assert "splits at whitespace first" in " ".join(checkpoint.decisions)
        file = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert file.encode("끝에 빈칸 ").ids != checkpoint.anchor.encode("끝에 빈칸 ").ids

    @pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "BertTokenizer"])
    def test_other_classes_take_the_pre_tokenizer_of_the_file(self, named: str, tmp_path: Path) -> None:
        folder = build_twin("multilingual-e5-base", tmp_path)
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
        assert not splits_first(folder)

    def test_lower_casing_of_sentence_transformers_comes_first_and_once(self, folder: Path) -> None:
        self.anchor(folder, do_lower_case=False)
        lowered = build_anchor(folder, lower_case=True, max_seq_length=32)
        assert lowered.encode("KOREA [MASK]").ids == lowered.encode("korea [MASK]").ids
        (folder / "tokenizer.json").write_text(lowered.to_str(), encoding="utf-8")
        again = build_anchor(folder, lower_case=True, max_seq_length=32)
        assert again.normalizer.__getstate__() == lowered.normalizer.__getstate__()
