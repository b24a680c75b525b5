"""Sweeps: studies that cross models, machines and loads, run on any executor and resumed where they stopped."""
