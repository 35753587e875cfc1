"""Torch modules and losses: maths only. No files, no Spark, no Horovod.

Shape legend: B rows of a batch, D vector length, F fields, K candidates or negatives, M items, N users, H hidden width.
"""
