"""Faults by a seeded schedule: what kills a night, when, and what must hold after it.

``schedule`` says which process dies in which stage and when; ``night`` runs real drivers and kills by it; ``reader``
reads all published tables meanwhile; ``verdict`` compares what is left with an undisturbed night. ``damage`` has the
faults that are no kill. ``python -m faults`` does all of it (``make test-faults``), the integration tests a part.
"""
