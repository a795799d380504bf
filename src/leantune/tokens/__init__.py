"""Texts become token ids, and these become `Sequences` of at most `max_length` tokens."""
