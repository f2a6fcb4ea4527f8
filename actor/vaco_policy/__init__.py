"""Policies: spaces, networks, distributions, normalisers, and weights as bytes."""
