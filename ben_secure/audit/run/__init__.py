"""Audit whole databases: find them, cut them into ranges, let workers judge the ranges, and add up the results."""
