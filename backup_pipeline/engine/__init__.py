"""The backup system itself: repositories on stores, with no Dagster imported."""
