"""Nine tiny, untrained encoders, each with a tokenizer that has its own special tokens.

Good for shapes, equality and order, not for quality.

    python tests/tiny_encoders.py FOLDER      writes FOLDER/bert, FOLDER/roberta, ...

Each folder loads with AutoTokenizer, AutoModel and AutoModelForSequenceClassification, takes 128 tokens and holds about
50,000 weights. The tokenizers (about 1,000 tokens) are made for texts that are made up here, so nothing else is needed.
"""

import json
import random
import string
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers as tr
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

MAX_LENGTH = 128

OTHER_SCRIPTS = (
    "Österreichs Straßen führen über Flüsse; ça coûte déjà 1,50 € — señor!",
    "東京は今日も雨です。明日は晴れるでしょう。",
    "Мир велик, а жизнь коротка. Ζωή σε λόγου μας.",
)
SYLLABLES = ("ba", "ko", "le", "mi", "nu", "ra", "s", "tho")
CHARACTERS = sorted(set(string.ascii_letters + string.digits + string.punctuation + "".join(OTHER_SCRIPTS)) - {" "})


def _words(syllables: int) -> list[str]:
    """All made-up words of so many syllables."""
    return ["".join(parts) for parts in product(SYLLABLES, repeat=syllables)]


def make_texts(count: int, *, most_words: int = 40, seed: int = 0) -> list[str]:
    """Make up `count` texts of 1 to `most_words` words; the same seed gives the same texts."""
    draw = random.Random(seed)
    return [_make_text(draw, draw.randint(1, most_words)) for _ in range(count)]


def _make_text(draw: random.Random, length: int) -> str:
    words = draw.choices(_words(4), k=length)
    ends = draw.choices(("", ",", ".", "!", "?"), (80, 10, 6, 2, 2), k=length)
    return " ".join(word + end for word, end in zip(words, ends, strict=True)).capitalize()


# Special tokens by their part, in the order of their ids.
BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
DEBERTA = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
ALBERT = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
MPNET = {**ROBERTA, "unk": "[UNK]"}


def _special_ids(special: dict[str, str]) -> dict[str, int]:
    """Ids of the special tokens as a model's configuration wants them."""
    ids = {part: number for number, part in enumerate(special)}
    return {
        "pad_token_id": ids["pad"],
        "bos_token_id": ids["cls"],
        "cls_token_id": ids["cls"],
        "eos_token_id": ids["sep"],
        "sep_token_id": ids["sep"],
    }


# Written down rather than trained: training word pieces or unigrams does not give the same twice. Words have four
# syllables and pieces at most three, so that every word is cut.
BEGINNINGS = [*CHARACTERS, *_words(1), *_words(2), *_words(3)]
CONTINUATIONS = [*CHARACTERS, *_words(1), *_words(2)]


def _word_pieces(special: dict[str, str]) -> dict[str, int]:
    pieces = [*special.values(), *BEGINNINGS, *(f"##{piece}" for piece in CONTINUATIONS)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def _unigrams(special: dict[str, str]) -> list[tuple[str, float]]:
    pieces = ["▁", *(f"▁{piece}" for piece in BEGINNINGS), *CONTINUATIONS]
    return [
        *((token, 0.0) for token in special.values()),
        *((piece, -1.0 - number / 1000) for number, piece in enumerate(dict.fromkeys(pieces))),
    ]


def _byte_pairs(special: dict[str, str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*OTHER_SCRIPTS, *make_texts(300)], trainer)
    return tokenizer


def _roberta_tokenizer() -> tr.PreTrainedTokenizerBase:
    model = json.loads(_byte_pairs(ROBERTA).to_str())["model"]
    return tr.RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def _modernbert_tokenizer() -> tr.PreTrainedTokenizerBase:
    backend = _byte_pairs(BERT)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tr.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{part}_token": token for part, token in BERT.items()},
    )


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH,
    # Five times the usual: at 0.02 an untrained encoder gives nearly the same whatever it reads, and every test of
    # equality would pass.
    "initializer_range": 0.1,
}
# RoBERTa's descendants count positions from the padding id + 1, which is 2.
OFFSET_SIZES = {**SIZES, "max_position_embeddings": MAX_LENGTH + 2}

Parts = tuple[Callable[[], tr.PreTrainedTokenizerBase], Callable[..., tr.PreTrainedConfig], dict[str, Any]]
ENCODERS: dict[str, Parts] = {
    "bert": (
        lambda: tr.BertTokenizer(vocab=_word_pieces(BERT), do_lower_case=True),
        tr.BertConfig,
        {**SIZES, **_special_ids(BERT)},
    ),
    "distilbert": (
        lambda: tr.DistilBertTokenizer(vocab=_word_pieces(BERT)),
        tr.DistilBertConfig,
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "initializer_range": 0.1,
            "max_position_embeddings": MAX_LENGTH,
            **_special_ids(BERT),
        },
    ),
    "electra": (
        lambda: tr.ElectraTokenizer(vocab=_word_pieces(BERT)),
        tr.ElectraConfig,
        {"embedding_size": 16, **SIZES, **_special_ids(BERT)},
    ),
    "roberta": (_roberta_tokenizer, tr.RobertaConfig, {"type_vocab_size": 1, **OFFSET_SIZES, **_special_ids(ROBERTA)}),
    "xlm-roberta": (
        lambda: tr.XLMRobertaTokenizer(vocab=_unigrams(ROBERTA)),
        tr.XLMRobertaConfig,
        {"type_vocab_size": 1, **OFFSET_SIZES, **_special_ids(ROBERTA)},
    ),
    "deberta-v2": (
        lambda: tr.DebertaV2Tokenizer(vocab=_unigrams(DEBERTA)),
        tr.DebertaV2Config,
        {
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 32,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_size": 32,
            **SIZES,
            **_special_ids(DEBERTA),
        },
    ),
    "albert": (
        lambda: tr.AlbertTokenizer(vocab=_unigrams(ALBERT)),
        tr.AlbertConfig,
        {"embedding_size": 16, **SIZES, **_special_ids(ALBERT)},
    ),
    "mpnet": (
        lambda: tr.MPNetTokenizer(vocab=_word_pieces(MPNET)),
        tr.MPNetConfig,
        {**OFFSET_SIZES, **_special_ids(MPNET)},
    ),
    "modernbert": (
        _modernbert_tokenizer,
        tr.ModernBertConfig,
        {"global_attn_every_n_layers": 2, "local_attention": 32, **SIZES, **_special_ids(BERT)},
    ),
}
"""Name -> how to make the tokenizer, the configuration's class, its arguments beside vocab_size."""

NAMES = tuple(ENCODERS)


def build_tiny_encoders(folder: Path) -> None:
    """Write all nine into `folder`, one subfolder each, always with the same weights; takes a few seconds."""
    with torch.random.fork_rng():
        for name, (make_tokenizer, make_config, arguments) in ENCODERS.items():
            torch.manual_seed(0)
            tokenizer = make_tokenizer()
            tokenizer.model_max_length = MAX_LENGTH
            tokenizer.save_pretrained(folder / name)
            model = tr.AutoModel.from_config(make_config(vocab_size=len(tokenizer), **arguments))
            model.save_pretrained(folder / name)


if __name__ == "__main__":
    build_tiny_encoders(Path(sys.argv[1]))
