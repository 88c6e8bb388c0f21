"""Whether the suite under tests/faults can fail: defects planted in a copy of the operator."""
