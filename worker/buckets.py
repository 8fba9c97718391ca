"""Batch sizes for which the device is prepared: 1, 2, 4, 8, ...; a batch between two counts as the larger."""

from __future__ import annotations


def bucket_of(size: int) -> int:
    """The smallest power of two that is at least ``size``."""
    return 1 << max(0, size - 1).bit_length()


def buckets(largest: int) -> list[int]:
    """1, 2, 4, ... up to the bucket that holds ``largest``."""
    return [1 << i for i in range(bucket_of(largest).bit_length())]
