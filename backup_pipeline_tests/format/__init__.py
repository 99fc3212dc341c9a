"""The repository format, held to its description: vectors, an independent reader, tampering."""
