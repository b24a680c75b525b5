"""Validation: scoring predictions against measured cases."""
