"""A pool's weights on real nodes, explored: real containers, trainers and clients."""
