"""A pretrained model becomes an `Encoder`: batch in, logits out."""
