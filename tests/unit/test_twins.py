"""The twins load as their originals would, and their weights let faults be seen.

Each fault that an export can have is put into a copy of the encoder, and must move some sentence further than any
sound precision does.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers.activations import GELUActivation

from exporter.recipe import find_recipe, list_recipes
from tests.support.twins import ALL_TWINS, TWINS, WordPiece, build_twin
from tests.support.twins.__main__ import main
from tests.support.twins.tokenizer import CORPUS, corpus_texts, vocabulary

NAMES = tuple(name for name, twin in TWINS.items() if twin.layout == "sentence-transformers")
Batch = dict[str, torch.Tensor]


def probes(count: int) -> list[str]:
    """Return that many different probes of the project, evenly spread over their file."""
    texts = list(dict.fromkeys(json.loads(line)["text"] for line in CORPUS[0].read_text(encoding="utf-8").splitlines()))
    return [texts[index * len(texts) // count] for index in range(count)]


@dataclass(frozen=True)
class Measured:
    """A small twin in memory, with its vectors of 200 probes."""

    name: str
    model: SentenceTransformer
    batches: list[Batch]
    sound: torch.Tensor
    """(200, 64) float64."""

    @property
    def encoder(self) -> nn.Module:
        encoder: nn.Module = self.model[0].auto_model
        return encoder

    def broken(self) -> nn.Module:
        """Return a copy to break."""
        return copy.deepcopy(self.encoder)

    def cosines(self, encoder: nn.Module) -> torch.Tensor:
        """Return the cosine to its sound vector of each probe of the shorter, quicker half, (100,) float64."""
        half = len(self.batches) // 2
        changed = vectors(self.name, encoder, self.batches[:half])
        return nn.functional.cosine_similarity(changed, self.sound[: len(changed)])


def pooled(name: str, encoder: nn.Module, batch: Batch, **changed: torch.Tensor) -> torch.Tensor:
    """Return (batch, 64) float64 vectors; what is ``changed`` is so for the encoder, not for the pooling."""
    with torch.inference_mode():
        hidden: torch.Tensor = encoder(**(batch | changed)).last_hidden_state.double()
    mask = batch["attention_mask"].unsqueeze(-1)
    return hidden[:, 0] if TWINS[name].pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)


def vectors(name: str, encoder: nn.Module, batches: list[Batch]) -> torch.Tensor:
    return torch.cat([pooled(name, encoder, batch) for batch in batches])


def tokens(model: SentenceTransformer, texts: list[str]) -> Batch:
    features = model.preprocess(texts)
    return {key: features[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in features}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build_twin(name, tmp_path_factory.mktemp("twins") / name) for name in NAMES}


@pytest.fixture(scope="module", params=NAMES)
def twin(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Measured:
    name = request.param
    model = SentenceTransformer(str(folders[name]), device="cpu")
    texts = sorted(probes(200), key=len)
    batches = [tokens(model, texts[start : start + 20]) for start in range(0, len(texts), 20)]
    return Measured(name, model, batches, vectors(name, model[0].auto_model, batches))


# --- loading ---------------------------------------------------------------------------------------------------------


class Complaints(logging.Handler):
    """Keeps the messages that it is given."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.complaints: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.complaints.append(record.getMessage())


@pytest.mark.parametrize("name", NAMES)
def test_loads_as_the_card_says_and_without_complaint(name: str, folders: dict[str, Path]) -> None:
    handler = Complaints(logging.WARNING)
    loggers = [logging.getLogger(library) for library in ("transformers", "sentence_transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        model = SentenceTransformer(str(folders[name]), device="cpu")
        vector = model.encode("서울은 한국의 수도이다")
    finally:
        for logger in loggers:
            logger.removeHandler(handler)

    assert handler.complaints == []
    assert type(model[0].auto_model).__name__ == find_recipe(name).expect.architecture
    assert model[1].pooling_mode == TWINS[name].pooling
    assert model.max_seq_length == TWINS[name].max_seq_length
    assert model[0].do_lower_case is TWINS[name].do_lower_case
    assert vector.shape == (TWINS[name].small.hidden,)


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_has_the_facts_of_its_recipe(name: str) -> None:
    twin, recipe = TWINS[name], find_recipe(name)
    assert twin.checkpoint == recipe.source
    assert (twin.pooling,) == recipe.expect.pooling
    assert twin.full.hidden == recipe.expect.dimension
    assert twin.max_seq_length == recipe.expect.max_seq_length
    assert twin.do_lower_case == recipe.expect.do_lower_case


def test_every_recipe_has_a_twin() -> None:
    assert set(ALL_TWINS) == {recipe.name for recipe in list_recipes()} - {"demo"}


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_comes_from_the_file(name: str, folders: dict[str, Path]) -> None:
    state = torch.load(folders[name] / "pytorch_model.bin", weights_only=True)
    encoder = SentenceTransformer(str(folders[name]), device="cpu")[0].auto_model
    expected = encoder.state_dict()
    assert ("embeddings.position_ids" in state) == (TWINS[name].architecture != "distilbert")
    state.pop("embeddings.position_ids", None)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


@pytest.mark.parametrize("name", NAMES)
def test_case_counts_only_where_it_should(name: str, folders: dict[str, Path]) -> None:
    model = SentenceTransformer(str(folders[name]), device="cpu")
    upper, lower = model.encode(["Seoul KOREA", "seoul korea"])
    assert (upper == lower).all() == TWINS[name].do_lower_case


@pytest.mark.parametrize("name", NAMES)
def test_long_input_is_cut_at_max_seq_length(name: str, folders: dict[str, Path]) -> None:
    model = SentenceTransformer(str(folders[name]), device="cpu")
    features = model.preprocess(["가 " * 600])
    assert features["input_ids"].shape == (1, TWINS[name].max_seq_length)
    assert model.encode("가 " * 600).shape == (TWINS[name].small.hidden,)


def test_the_cased_tokenizer_of_klue_sroberta_is_lower_cased_by_sentence_transformers_alone(
    folders: dict[str, Path],
) -> None:
    config = json.loads((folders["klue-sroberta"] / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["do_lower_case"] is False
    tokenizer = SentenceTransformer(str(folders["klue-sroberta"]), device="cpu").tokenizer
    assert (tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id) == (0, 1, 2)
    assert tokenizer.tokenize("KOREA") == tokenizer.tokenize("korea")


def test_hangul_stays_composed_where_text_is_lower_cased(folders: dict[str, Path]) -> None:
    tokenizer = SentenceTransformer(str(folders["albert-small"]), device="cpu").tokenizer
    assert "".join(tokenizer.tokenize("한국")).replace("##", "") == "한국"


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_of_its_time(name: str, folders: dict[str, Path]) -> None:
    folder = folders[name]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "modules.json",
        "pytorch_model.bin",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    assert files - {"tokenizer.json"} == expected
    assert ("tokenizer.json" in files) == TWINS[name].tokenizer.has_tokenizer_json
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    assert pooling[f"pooling_mode_{TWINS[name].pooling}_token{'' if TWINS[name].pooling == 'cls' else 's'}"] is True
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
    assert types == ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]


@pytest.mark.parametrize("name", ["albert-small", "klue-sroberta"])
def test_equal_arguments_give_equal_bytes(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    again = build_twin(name, tmp_path / "again")
    for path in folders[name].rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(folders[name])).read_bytes() == path.read_bytes(), path.name


def test_the_seed_and_the_name_change_the_weights_and_nothing_else(folders: dict[str, Path], tmp_path: Path) -> None:
    other_seed = build_twin("ko-sbert-sts", tmp_path, seed=1)
    for other in (other_seed, folders["ko-sbert-multitask"]):
        assert (other / "vocab.txt").read_bytes() == (folders["ko-sbert-sts"] / "vocab.txt").read_bytes()
        assert (other / "config.json").read_bytes() == (folders["ko-sbert-sts"] / "config.json").read_bytes()
        assert (other / "pytorch_model.bin").read_bytes() != (
            folders["ko-sbert-sts"] / "pytorch_model.bin"
        ).read_bytes()


def test_a_folder_of_transformers_has_no_file_of_sentence_transformers(tmp_path: Path) -> None:
    folder = build_twin("kosimcse-roberta-multitask", tmp_path)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    transformers = {"config.json", "pytorch_model.bin", "special_tokens_map.json", "tokenizer.json", "vocab.txt"}
    assert files == transformers | {"README.md", "tokenizer_config.json"}


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"no twin is called 'ko-sbert'; there are albert-small, "):
        build_twin("ko-sbert", tmp_path)


def test_the_command_line_prints_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["moco-distilbert", str(tmp_path / "twin"), "--seed", "3"])
    assert capsys.readouterr().out == f"{tmp_path / 'twin'}\n"
    assert (tmp_path / "twin" / "pytorch_model.bin").is_file()


# --- vocabularies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2_000, 32_000])
def test_a_vocabulary_has_its_size_and_no_entry_twice(size: int) -> None:
    entries = vocabulary(WordPiece(), size, corpus_texts())
    assert len(entries) == len(set(entries)) == size
    assert entries[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_a_vocabulary_prefers_the_pieces_that_save_most_tokens() -> None:
    entries = vocabulary(WordPiece(), 1_000, ["대한민국 대한민국 학교는 학교에 집에"])
    assert entries.index("대한민국") < entries.index("학교")
    assert "학교는" not in entries, "a piece that occurs once is not worth an entry"


def test_a_lower_casing_vocabulary_has_no_capitals() -> None:
    entries = vocabulary(WordPiece(do_lower_case=True, strip_accents=False), 2_000, ["Seoul SEOUL"])
    assert "seoul" in entries
    assert not [entry for entry in entries[5:] if entry != entry.lower()]


# --- the weights -----------------------------------------------------------------------------------------------------


def test_sentences_are_spread_apart(twin: Measured) -> None:
    unit = nn.functional.normalize(twin.sound, dim=1)
    pairs = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    assert pairs.mean() < 0.4
    assert pairs.quantile(0.95) < 0.75


def test_fp32_is_well_conditioned(twin: Measured) -> None:
    exact = vectors(twin.name, twin.broken().double(), twin.batches)
    assert ((exact - twin.sound).norm(dim=1) / exact.norm(dim=1)).max() < 1e-5


@pytest.mark.parametrize(("dtype", "floor"), [(torch.float16, 0.99995), (torch.bfloat16, 0.999)])
def test_a_sound_half_precision_passes(twin: Measured, dtype: torch.dtype, floor: float) -> None:
    half = vectors(twin.name, twin.broken().to(dtype), twin.batches)
    assert nn.functional.cosine_similarity(half, twin.sound).min() >= floor
    similarity = nn.functional.normalize(half, dim=1) @ nn.functional.normalize(twin.sound, dim=1).T
    assert torch.equal(similarity.argmax(dim=1), torch.arange(len(half))), (
        "a sentence is nearest to another one's vector"
    )


def test_activations_are_far_from_the_limits_of_fp16(twin: Measured) -> None:
    with torch.inference_mode():
        states = twin.encoder(**twin.batches[-1], output_hidden_states=True).hidden_states
    assert 1 < max(float(state.abs().max()) for state in states) < 1_000


def test_ignoring_the_padding_mask_shows(twin: Measured) -> None:
    texts = probes(20)
    batch = tokens(twin.model, [*texts, " ".join(texts)])
    masked = pooled(twin.name, twin.encoder, batch)
    unmasked = pooled(twin.name, twin.encoder, batch, attention_mask=torch.ones_like(batch["attention_mask"]))
    cosines = nn.functional.cosine_similarity(masked, unmasked)
    assert cosines[:-1].min() < 0.98
    assert cosines[-1] > 0.999999, "the longest has no padding"


def shift_positions(encoder: nn.Module) -> None:
    table = encoder.get_parameter("embeddings.position_embeddings.weight")
    table.data = torch.roll(table.data, -1, dims=0)


def swap_token_types(encoder: nn.Module) -> None:
    table = encoder.get_parameter("embeddings.token_type_embeddings.weight")
    table.data = table.data.flip(0)


def attend_evenly(encoder: nn.Module) -> None:
    for name, module in encoder.named_modules():
        if name.endswith(("query", "q_lin")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def raise_epsilon(encoder: nn.Module) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-3


def drop_norm_parameters(encoder: nn.Module) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def skip_last_feed_forward(encoder: nn.Module) -> None:
    """Let the feed-forward sublayer add nothing at its last use (ALBERT has one module and uses it in each layer)."""
    linears = [module for module in encoder.modules() if isinstance(module, nn.Linear) and module.in_features == 128]
    config: Any = encoder.config
    uses_before = config.num_hidden_layers - 1 if len(linears) == 1 else 0
    calls = 0

    def skip(_module: nn.Module, _inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output if (calls - 1) % (uses_before + 1) < uses_before else torch.zeros_like(output)

    linears[-1].register_forward_hook(skip)


@pytest.mark.parametrize(
    ("fault", "ceiling"),
    [
        (shift_positions, 0.999),
        (swap_token_types, 0.999),
        (attend_evenly, 0.98),
        (raise_epsilon, 0.9999),
        (drop_norm_parameters, 0.99),
        (skip_last_feed_forward, 0.98),
    ],
)
def test_a_fault_shows(twin: Measured, fault: Callable[[nn.Module], None], ceiling: float) -> None:
    if fault is swap_token_types and TWINS[twin.name].token_types < 2:
        pytest.skip("this architecture has no second token type")
    encoder = twin.broken()
    fault(encoder)
    assert twin.cosines(encoder).min() < ceiling


def test_the_tanh_approximation_of_gelu_shows(twin: Measured) -> None:
    encoder = twin.broken()
    for module in encoder.modules():
        if isinstance(module, GELUActivation):
            module.act = nn.GELU(approximate="tanh")
    error = (vectors(twin.name, encoder, twin.batches) - twin.sound).norm(dim=1) / twin.sound.norm(dim=1)
    assert error.max() > 5e-5
