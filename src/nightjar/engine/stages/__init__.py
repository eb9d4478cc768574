"""The stages of a night, one module each."""
