"""Makes what a benchmark needs where there is no network: an encoder of a known shape with random weights, and tables.

    python benchmarks/synthetic.py FOLDER [--shapes bert-base minilm] [--tiny]

writes FOLDER/bert-base, FOLDER/minilm (what transformers loads, with a tokenizer of made-up words, one token each) and
FOLDER/long.csv, FOLDER/short.csv (columns text, target), whose lengths in tokens are those of CommonLit and EmoBank.
Nothing can be learned from them: they are for times and memory. `--words-of`: with the word pieces of a model of BERT's
kind, so that tables of real texts can be read. `--tiny`: two narrow layers of each architecture, for a trial on a CPU.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY = 30522
SHAPES: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "modernbert-base": (transformers.ModernBertConfig, IDS),
    "deberta-v3-base": (
        transformers.DebertaV2Config,
        {
            **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
            **{"type_vocab_size": 0, "relative_attention": True, "position_buckets": 256, "pooler_hidden_size": 768},
            **{"norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"]},
            **{"position_biased_input": False, "vocab_size": 128100, **IDS},
        },
    ),
}
LENGTHS = {
    # The deciles of the lengths in BERT's tokens, special tokens included, from the shortest to the longest.
    "long": [153, 184, 195, 204, 211, 218, 225, 232, 240, 251, 387],
    "short": [3, 8, 10, 12, 15, 18, 22, 26, 32, 40, 128],
}
ROWS = 4000


def make_encoder(folder: Path, shape: str, *, words_of: str | None = None, tiny: bool = False) -> None:
    """Write an encoder of a shape with random weights, and its tokenizer."""
    torch.manual_seed(0)
    make_config, arguments = OTHERS.get(shape, (transformers.BertConfig, SHAPES.get(shape, {})))
    arguments = {"vocab_size": VOCABULARY} | arguments
    if tiny:
        arguments |= TINY | {"pooler_hidden_size": TINY["hidden_size"]}
    make_tokenizer(words_of, arguments["vocab_size"]).save_pretrained(folder)
    transformers.AutoModel.from_config(make_config(**arguments)).save_pretrained(folder)


def make_tokenizer(words_of: str | None, size: int) -> Any:
    """Return a tokenizer of made-up words, or of the word pieces of another model's, filled up to the same size."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if words_of is not None:
        vocabulary = transformers.AutoTokenizer.from_pretrained(words_of).get_vocab()
        words = sorted(vocabulary, key=vocabulary.__getitem__)
    words += [f"w{number}" for number in range(size - len(words))]
    tokenizer = transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    tokenizer.model_max_length = 512
    return tokenizer


def make_table(path: Path, deciles: list[int]) -> None:
    """Write rows of random words, whose lengths spread as `deciles` say, but for the longest 1 in 100."""
    draw = np.random.default_rng(0)
    # In the last tenth most are near its beginning: lengths have a long tail.
    places = draw.random(ROWS) * 10
    shares = np.where(places > 9, 9 + (places - 9) ** 6, places)
    lengths = np.interp(shares, range(11), deciles).astype(int)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "target"])
        for length in lengths:
            words = draw.integers(0, VOCABULARY - 5, size=max(1, length - 2))  # [CLS] and [SEP] are two
            writer.writerow([" ".join(f"w{word}" for word in words), f"{draw.normal():.3f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES, *OTHERS], default=["bert-base", "minilm"])
    parser.add_argument("--words-of", metavar="MODEL", help="with this model's word pieces, for tables of real texts")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for shape in options.shapes:
        make_encoder(options.folder / shape, shape, words_of=options.words_of, tiny=options.tiny)
    for name, deciles in LENGTHS.items():
        make_table(options.folder / f"{name}.csv", deciles)


if __name__ == "__main__":
    main()
