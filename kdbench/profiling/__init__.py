"""What a model costs: parameters, bytes, multiply-adds and the time of one forward pass."""
