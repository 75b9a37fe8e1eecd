"""Judge whole databases: find them, cut them into ranges, have workers judge these, and add up what they find."""
