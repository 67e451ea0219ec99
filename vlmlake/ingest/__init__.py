"""From a dataset and a model to committed batches: the only room that imports torch and transformers."""
