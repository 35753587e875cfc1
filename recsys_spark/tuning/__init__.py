"""Search for better settings of a training: many short trainings on tables that are there, judged by validation.

It stands beside the pipeline, not in it: it reads what stages have written, starts trainings as their stages do, and
writes nothing but its own folder. The test window plays no part.
"""
