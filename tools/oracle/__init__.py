"""Reference implementations in PyTorch: golden files and comparisons are made with them."""
