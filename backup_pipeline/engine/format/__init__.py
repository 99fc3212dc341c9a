"""One module per stored thing: encode and decode, no input or output; see docs/format-v1.md."""
