"""How much memory does one long text take, forward and backward, in packed attention?

    python benchmarks/long_texts.py --tokens 8192

A ModernBERT with random weights (hidden size 768, 12 heads, one global and two local layers) in bf16. Prints the size
of the tensors that autograd keeps for the backward pass, each storage once and without the weights, and the largest
resident memory of the process.
"""

import argparse

import torch
from transformers import ModernBertConfig, ModernBertForSequenceClassification

from leantune.batches.packing import make_packing
from leantune.encoder.proof import make_packing_possible
from leantune.training.clock import peak_process_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    tokens = parser.parse_args().tokens
    torch.manual_seed(0)
    config = ModernBertConfig(
        num_hidden_layers=3,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=1152,
        max_position_embeddings=8192,
        vocab_size=200,
        pad_token_id=0,
        cls_token_id=1,
        bos_token_id=1,
        sep_token_id=2,
        eos_token_id=2,
    )
    model = ModernBertForSequenceClassification(config)
    pooling = make_packing_possible(model)
    assert pooling is not None
    model.train()
    packing = make_packing([tokens], torch.device("cpu"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids, positions = torch.randint(3, 200, (1, tokens)), torch.arange(tokens)[None]
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16), pooling.of(packing):
        logits = model(input_ids=ids, position_ids=positions, packing=packing).logits
    logits.sum().backward()
    layer = sum(kept.values()) / config.num_hidden_layers / 2**20
    print(f"{tokens:,} tokens: {layer:,.1f} MiB kept a layer, {(peak_process_bytes() or 0) / 2**20:,.0f} MiB at most")


if __name__ == "__main__":
    main()
