"""Rigs that break storage on purpose; see docs/reliability.md for what they prove."""
