"""Who a caller is and how much they may take: principals from keys and tokens, limits, slow answers to guessing."""
