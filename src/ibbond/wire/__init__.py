"""Bytes to values and back: every format that crosses a wire here, each named by the document that defines it."""
