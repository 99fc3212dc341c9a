"""The demo: real datasets backed up, damaged, lost and restored, with Dagster."""
