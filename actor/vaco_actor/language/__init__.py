"""Completions: sampled from a language model, rewarded, and sent in groups."""
