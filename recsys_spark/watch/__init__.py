"""Whether tonight's tables look like those of the nights before: profiles, checks, and a hook for alarms."""
