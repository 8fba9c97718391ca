"""Callers whose connection breaks come back to their call: its tokens, its processes, what was said and not heard."""
