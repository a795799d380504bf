"""Tokenizers of Japanese encoders, which cut texts into words with MeCab (extra `japanese`)."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from leantune.inference.file import PredictOptions, predict_file
from small_runs import finish, run_all, tiny_config

pytest.importorskip("fugashi", reason="the extra japanese is not installed")
pytest.importorskip("unidic_lite", reason="the extra japanese is not installed")

WORDS = [
    "今日",
    "明日",
    "は",
    "も",
    "良い",
    "悪い",
    "天気",
    "映画",
    "です",
    "でし",
    "##た",
    "た",
    "。",
    "と",
    "雨",
    "が",
]
SENTENCES = ["今日は良い天気です。", "明日も悪い天気です。", "映画は良いです。", "今日も雨がとても悪い。"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny encoder with a tokenizer of the kind of cl-tohoku/bert-base-japanese-v3: words of unidic-lite."""
    folder = tmp_path_factory.mktemp("japanese")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab", "do_lower_case": false,'
        ' "subword_tokenizer_type": "wordpiece", "mecab_kwargs": {"mecab_dic": "unidic_lite"}}'
    )
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_texts_are_cut_into_words_of_the_dictionary(encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)

    assert tokenizer.tokenize("今日は良い天気です。") == ["今日", "は", "良い", "天気", "です", "。"]


def test_a_japanese_encoder_trains_and_predicts(encoder: Path, tmp_path: Path) -> None:
    lines = [f"{SENTENCES[row % 4]},{int('良' in SENTENCES[row % 4])}" for row in range(24)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,y", *lines]), encoding="utf-8")
    data = {"path": str(tmp_path / "rows.csv"), "text": "text", "target": "y"}

    run_all(tiny_config(tmp_path, encoder, data=data, optimizer={"epochs": 1}), tmp_path / "run")
    finish(predict_file([tmp_path / "run"], tmp_path / "rows.csv", tmp_path / "out.csv", PredictOptions(device="cpu")))

    assert len((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()) == 25
