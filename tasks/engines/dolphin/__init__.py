"""The dolphin engine: ByteDance Dolphin 1.0 and 1.5, pages in batches through our own decoder."""
