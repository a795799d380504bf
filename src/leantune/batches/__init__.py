"""Sequences become an `EpochPlan`: which rows make which optimizer step; and `Batch`es: the tensors of a micro-batch."""
