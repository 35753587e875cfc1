"""Where candidates come from: a file a source, what they read, and how their lists are joined."""
