"""Formulas: work counts and seconds from plain numbers."""
