"""The page of `python -m pipelines.app`: a tab in a module, its work as plain functions, its controls below them."""
