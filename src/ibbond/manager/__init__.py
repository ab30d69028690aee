"""The subnet manager and administrator, which know the subnet through MADs only."""
