"""Estimates: steps, latency and memory of a model under plans."""
