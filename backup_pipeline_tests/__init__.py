"""Tests of backup_pipeline, laid out as the package is."""
