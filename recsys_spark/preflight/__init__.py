"""What is looked at before training: whether driver, executors and the ranks' hosts are alike, and can work."""
