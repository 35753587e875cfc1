"""What is trained: one file a model. A new one is a file here and a line in ``TASKS`` of ``training.worker``."""
