"""How a language model learns from groups of completions."""
