"""Sentence embeddings distilled from a larger encoder: smaller encoders whose vectors stand for the larger one's."""
