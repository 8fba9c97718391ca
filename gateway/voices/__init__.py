"""Voices that callers bring: what a recording must be, where it is kept, who may use it."""
