"""Measurements of the engine beside its peers; nothing of the package imports this."""
