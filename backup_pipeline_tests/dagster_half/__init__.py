"""Tests of the Dagster half, against the real engine and stores."""
