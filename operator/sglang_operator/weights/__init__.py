"""The transaction on a pool's weights, as its Lease records it: for operator and trainers."""
